package lb

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
)

// ConsistentHashReverseProxy gives a proxy that sends a request to the node that has its path, and to another while that one is away.
// Neither order nor duplicates of nodes matter for which node has a path. The Host header stays. The fields of the proxy
// that it leaves empty, as ErrorHandler and ModifyResponse, may be set before the first request.
//
// The end of ctx ends all that the proxy does beside requests, as [NewRoundTripper] says, and so does it for nodes that cannot be
// parsed. Without any good node a request has [ErrNoFallbackNodeFound], of which httputil makes the status 502.
func ConsistentHashReverseProxy(ctx context.Context, nodes []string) *httputil.ReverseProxy {
	return NewRoundTripper(ctx, nodes).reverseProxy()
}

func (t *FallbackRoundTripper) reverseProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{Rewrite: t.rewrite, Transport: t, BufferPool: buffers{}}
}

// rewrite chooses the node. The headers that tell of the client go on as they came, as they did with the Director of the original; a client
// cannot have them removed by its Connection header.
func (t *FallbackRoundTripper) rewrite(pr *httputil.ProxyRequest) {
	r, ok := pr.In.Context().Value(routeKey{}).(*route)
	if !ok || r.by != t {
		r = &route{by: t}
		pr.Out = pr.Out.WithContext(context.WithValue(pr.Out.Context(), routeKey{}, r))
	}
	forward(pr.Out.Header, pr.In)
	pr.Out.Trailer = pr.In.Trailer // the same map: the server fills it at the end of the body, which httputil's copy does not see
	r.in = pr.In.URL
	if r.node == nil {
		r.node = t.table.Load().owner(pr.In.URL.Path)
	}
	if r.node != nil {
		point(pr.Out, r.in, r.node.url)
	}
}

func forward(out http.Header, in *http.Request) {
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := in.Header[name]; ok {
			out[name] = v
		}
	}
	prior, ok := in.Header["X-Forwarded-For"]
	if ok && prior == nil {
		return // as httputil has it: somebody before us wants none
	}
	client, _, err := net.SplitHostPort(in.RemoteAddr)
	if err != nil {
		return
	}
	if len(prior) > 0 {
		client = strings.Join(prior, ", ") + ", " + client
	}
	out["X-Forwarded-For"] = []string{client}
}

// buffers keeps the buffers that bodies are copied by: httputil makes one for each response otherwise.
type buffers struct{}

const bufferSize = 32 << 10

var pool = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func (buffers) Get() []byte {
	b, ok := pool.Get().(*[bufferSize]byte)
	if !ok {
		b = new([bufferSize]byte)
	}
	return b[:]
}

func (buffers) Put(b []byte) {
	if len(b) == bufferSize {
		pool.Put((*[bufferSize]byte)(b))
	}
}
