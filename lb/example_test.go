package lb_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/fnlb/fnlb/lb"
)

// node starts a server for the examples.
func node(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s answers %s", name, r.URL.Path)
	}))
}

// get prints what a server answers.
func get(url string) {
	resp, err := http.Get(url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
}

func ExampleConsistentHashReverseProxy() {
	a := node("a")
	defer a.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	proxy := lb.ConsistentHashReverseProxy(ctx, []string{a.URL + "/base"})
	front := httptest.NewServer(proxy)
	defer front.Close()
	get(front.URL + "/hello")
	// Output: a answers /base/hello <nil>
}

func ExampleNewRoundTripper() {
	a, b := node("a"), node("b")
	defer b.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := http.Client{Transport: lb.NewRoundTripper(ctx, []string{a.URL, b.URL})}
	defer client.CloseIdleConnections()
	a.Close() // it dies
	resp, err := client.Get(a.URL + "/hello")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: b answers /hello <nil>
}

func ExampleNew() {
	a, b := node("a"), node("b")
	defer a.Close()
	defer b.Close()
	balancer, err := lb.New([]string{a.URL},
		lb.WithBalanceFactor(125),
		lb.WithHealthCheck(lb.HealthCheck{Path: "/healthz", Interval: 2 * time.Second}))
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- balancer.Run(ctx) }()

	front := httptest.NewServer(balancer)
	get(front.URL + "/hello")
	if err := balancer.Update([]string{b.URL}); err != nil {
		fmt.Println(err)
	}
	get(front.URL + "/hello")

	front.Close()
	cancel()
	fmt.Println("ended:", <-ended)
	// Output:
	// a answers /hello <nil>
	// b answers /hello <nil>
	// ended: <nil>
}

func ExampleBalancer_Node() {
	balancer, err := lb.New([]string{"10.0.0.5:8080", "10.0.0.6:8080", "https://node7.example.org/base"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(balancer.Node("/r/app/hello"))
	// Output: http://10.0.0.6:8080
}
