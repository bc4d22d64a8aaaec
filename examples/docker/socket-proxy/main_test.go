package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/test/dockertest"
)

func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }

// run starts the proxy on a socket and gives a client of it.
func run(t *testing.T, e *dockertest.Engine) (c *client.Client, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, socket, e.Socket, log.New(os.Stderr, "", 0)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(client.WithHost("unix://" + socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	e.Eventually(t, func() (string, error) {
		_, err := c.Ping(t.Context(), client.PingOptions{})
		return "", err
	})
	return c, socket
}

// TestAllowed: what fnlb asks is answered, without the environment of containers.
func TestAllowed(t *testing.T) {
	e := dockertest.Shared(t)
	c, _ := run(t, e)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := c.Events(ctx, client.EventsListOptions{})
	made := e.Run(t, dockertest.Options{Env: []string{"PASSWORD=secret"}, Labels: map[string]string{"lb.enable": "Y"}})
	for started := false; !started; {
		select {
		case m := <-stream.Messages:
			started = m.Actor.ID == made.ID && m.Action == events.ActionStart
		case err := <-stream.Err:
			t.Fatal(err)
		}
	}
	got, err := c.ContainerInspect(t.Context(), made.ID, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Container.Config.Labels["lb.enable"] != "Y" || !got.Container.State.Running || len(got.Container.NetworkSettings.Networks) != 1 {
		t.Errorf("the container: %s", got.Raw)
	}
	if bytes.Contains(got.Raw, []byte("secret")) || !strings.Contains(strings.Join(made.Inspect(t).Config.Env, " "), "PASSWORD=secret") {
		t.Errorf("the environment: %s", got.Raw)
	}
	list, err := c.ContainerList(t.Context(), client.ContainerListOptions{All: true})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("list: %+v %v", list, err)
	}
	if _, err := c.ServerVersion(t.Context(), client.ServerVersionOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.Info(t.Context(), client.InfoOptions{}); err != nil {
		t.Error(err)
	}
	networks, err := c.NetworkList(t.Context(), client.NetworkListOptions{})
	if err != nil || len(networks.Items) < 3 {
		t.Errorf("networks: %+v %v", networks, err)
	}
	if _, err := c.NetworkInspect(t.Context(), "bridge", client.NetworkInspectOptions{}); err != nil {
		t.Error(err)
	}
}

// TestRefused: nothing else gets to the Engine, in whatever spelling.
func TestRefused(t *testing.T) {
	e := dockertest.Shared(t)
	c, socket := run(t, e)
	made := e.Run(t, dockertest.Options{})
	if _, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{Image: dockertest.ServerImage}); !cerrdefs.IsPermissionDenied(err) {
		t.Errorf("create: %v", err)
	}
	if _, err := c.ContainerKill(t.Context(), made.ID, client.ContainerKillOptions{}); !cerrdefs.IsPermissionDenied(err) {
		t.Errorf("kill: %v", err)
	}
	if _, err := c.ExecCreate(t.Context(), made.ID, client.ExecCreateOptions{Cmd: []string{"/server"}}); !cerrdefs.IsPermissionDenied(err) {
		t.Errorf("exec: %v", err)
	}
	id := made.ID
	for _, line := range []string{
		"GET /images/json", "GET /secrets", "GET /swarm", "GET /plugins", "GET /containers/" + id + "/logs?stdout=1", "GET /containers/" + id + "/archive?path=/",
		"GET /containers/" + id + "/top", "GET /containers/" + id + "/attach/ws", "GET /v1.41/containers/" + id + "/export",
		"GET /containers/..%2fimages/json", "GET /containers/../images/json", "GET //containers/json", "GET /containers//json", "GET /v1.41/../images/json",
		"GET /v1.41%2fcontainers/json", "GET /containers/json/", "GET /containers/" + id + "%2fjson", "GET /containers/" + id + "/json%00",
		"GET http://engine/images/json", "POST /containers/" + id + "/json", "DELETE /containers/" + id, "HEAD /containers/json", "PUT /info", "OPTIONS *", "CONNECT engine:80",
		"POST /_ping", "GET /events/x", "GET /networks/bridge/connect", "GET /x/v1.41/info",
	} {
		if status := raw(t, socket, line); status != 403 && status != 400 {
			t.Errorf("%s: %d", line, status)
		}
	}
	for _, line := range []string{"GET /v1.41/info", "HEAD /_ping", "HEAD /v1.41/_ping", "GET http://engine/info"} {
		if status := raw(t, socket, line); status != 200 {
			t.Errorf("%s: %d", line, status)
		}
	}
	if !made.Inspect(t).State.Running {
		t.Error("the container was stopped")
	}
}

// raw sends a request line as it is.
func raw(t *testing.T, socket, line string) (status int) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, line+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestUpgrade: a connection is never handed through, and no body.
func TestUpgrade(t *testing.T) {
	_, socket := run(t, dockertest.Shared(t))
	for _, header := range []string{"Connection: Upgrade\r\nUpgrade: h2c\r\n", "Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /info HTTP/1.1\r\nHost: x\r\n"+header+"\r\n{}"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 403 {
			t.Errorf("%q: %d", header, resp.StatusCode)
		}
		conn.Close()
	}
}
