package access

import (
	"errors"
	"net"
	"time"

	"github.com/pires/go-proxyproto"
)

// headerTime is how long HAProxy, a process on the same host, may take for its PROXY header.
const headerTime = 5 * time.Second

var errVersion = errors.New("the PROXY header is not of version 2")

// FromHAProxy gives l's connections the addresses that HAProxy's PROXY header (version 2) carries. A connection without such
// a header is closed when it is first read. One with the command LOCAL keeps l's own addresses, which are none: it may only
// ask for health.
func FromHAProxy(l net.Listener) net.Listener {
	return &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: headerTime,
		ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			return proxyproto.REQUIRE, nil
		},
		ValidateHeader: func(h *proxyproto.Header) error {
			if h.Version != 2 {
				return errVersion
			}
			return nil
		},
	}
}
