package e2e

import (
	"io"
	"net"
	"path/filepath"
	"regexp"
)

// AskWorker asks HAProxy's worker by the socket that it has for us. An error is the answer, for who asks until it is a good one.
func (b *Balancer) AskWorker(command string) string {
	b.T.Helper()
	conn, err := net.Dial("unix", filepath.Join(b.Dir, "private", "worker.sock"))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return err.Error()
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(answer)
}

var taught = regexp.MustCompile(`id=fnlb disabled=0 flags=0x[0-9a-f]*3 `)

// WaitTables waits until the worker hands its stick tables to the next one: at first it waits for those of others itself.
func (b *Balancer) WaitTables() {
	b.T.Helper()
	b.Eventually(func() string {
		if peers := b.AskWorker("show peers"); !taught.MatchString(peers) {
			return "the worker still waits for stick tables: " + peers
		}
		return ""
	})
}
