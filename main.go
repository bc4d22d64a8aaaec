// Command fnlb finds backends and keeps HAProxy serving them.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/fnlb/fnlb/app"
	"github.com/fnlb/fnlb/store/open"
)

func main() {
	// A closed pipe behind our output is an error of that write, not the end of the balancer.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(app.Main(app.Program{
		Args:   os.Args[1:],
		Env:    os.LookupEnv,
		Stdout: os.Stdout,
		Stderr: os.Stderr,

		Databases: open.Bind,
		Signals: func() <-chan os.Signal {
			c := make(chan os.Signal, 8)
			signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
			return c
		},
	}))
}
