package e2e

import (
	"io"
	"net/http"
	"time"
)

// ask sends the request that hang waits for, and returns when it has arrived at the node; the channel gets the body, or the error.
func (r *hung) ask(addr string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + addr + "/hang")
		if err != nil {
			answer <- err.Error()
			return
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- string(data)
	}()
	select {
	case <-r.arrived:
	case got := <-answer: // it never got there
		answer <- got
	}
	return answer
}

// waitClosed waits until the traffic port is closed.
func (b *Balancer) waitClosed() {
	b.T.Helper()
	for end := time.Now().Add(Patience); !Free(b.Traffic); {
		if time.Now().After(end) {
			b.T.Fatal("the traffic port is open")
		}
		select {
		case <-b.Exited():
		case <-time.After(10 * time.Millisecond):
		}
	}
}
