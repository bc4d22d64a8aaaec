package rpc

import (
	"net"

	"github.com/fnlb/fnlb/api/crowd"
)

// bounded is a listener whose connections are counted. What gRPC reads and writes is not seen here, so that the oldest goes.
type bounded struct {
	net.Listener
	crowd *crowd.Crowd
}

// counted is a connection that leaves the crowd when it is closed.
type counted struct {
	net.Conn
	member *crowd.Member
}

// Accept waits for a connection and closes another for it where there are too many.
func (b bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return counted{conn, b.crowd.Enter(conn, conn.RemoteAddr())}, nil
}

// Close ends the connection; more than once is allowed.
func (c counted) Close() error {
	c.member.Leave()
	return c.Conn.Close()
}
