package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
)

// The images that this package knows how to make.
const (
	ServerImage = "server:latest"       // test/dockertest/server, alone in an image from scratch; exposes 8080
	WebImage    = "web:latest"          // sample/web, likewise; exposes 8082
	ProxyImage  = "socket-proxy:latest" // examples/docker/socket-proxy, likewise; exposes 2375
	BaseImage   = "debian:trixie-slim"
	FnlbImage   = "fnlb:latest" // the product's own, from the Dockerfile
)

// image is made once.
type image struct {
	once sync.Once
	err  error
}

// Image makes one of the images above, once for each engine, and returns its name.
func (e *Engine) Image(t *testing.T, name string) string {
	t.Helper()
	var create func(context.Context) error
	switch name {
	case ServerImage:
		create = func(ctx context.Context) error { return e.program(ctx, name, "test/dockertest/server", "8080") }
	case WebImage:
		create = func(ctx context.Context) error { return e.program(ctx, name, "sample/web", "8082") }
	case ProxyImage:
		create = func(ctx context.Context) error { return e.program(ctx, name, "examples/docker/socket-proxy", "2375") }
	case BaseImage:
		create = func(ctx context.Context) error { return e.base(ctx, name) }
	case FnlbImage:
		e.Image(t, BaseImage)
		create = func(ctx context.Context) error { return e.product(ctx, name) }
	default:
		t.Fatalf("dockertest does not know the image %s", name)
	}
	e.Once(t, name, create)
	return name
}

// Once calls create unless it was called for this name before; whoever asks meanwhile waits.
func (e *Engine) Once(t *testing.T, name string, create func(context.Context) error) {
	t.Helper()
	e.mu.Lock()
	i := e.images[name]
	if i == nil {
		i = &image{}
		e.images[name] = i
	}
	e.mu.Unlock()
	i.once.Do(func() { i.err = create(context.Background()) }) // it is not this test's alone
	if i.err != nil {
		t.Fatalf("image %s: %v", name, i.err)
	}
}

// program imports an image that holds nothing but the static binary of one of our packages.
func (e *Engine) program(ctx context.Context, name, pkg, port string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	file := filepath.Join(e.folder, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-C", root, "-trimpath", "-ldflags", "-s -w", "-o", file, "./"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	path := "/" + filepath.Base(pkg)
	content, err := Tar(File{Name: path[1:], Mode: 0o755, Data: data})
	if err != nil {
		return err
	}
	return e.importImage(ctx, name, content, `ENTRYPOINT ["`+path+`"]`, "EXPOSE "+port)
}

// baseFile is the Debian root that `make tools` has made.
func baseFile() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	file, err := filepath.EvalSymlinks(filepath.Join(root, ".images", "debian-trixie.tar"))
	if err != nil {
		return "", fmt.Errorf("%w: `make tools` makes it", err)
	}
	return file, nil
}

func (e *Engine) base(ctx context.Context, name string) error {
	file, err := baseFile()
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return e.importImage(ctx, name, f, `CMD ["bash"]`)
}

func (e *Engine) importImage(ctx context.Context, name string, content io.Reader, changes ...string) error {
	r, err := e.Client.ImageImport(ctx, client.ImageImportSource{Source: content, SourceName: "-"}, name, client.ImageImportOptions{Changes: changes})
	if err != nil {
		return err
	}
	_, err = readProgress(r)
	return err
}

// Build builds an image from a context, a tar stream, as `docker build --network host` does. Packages come through the proxy outside. What
// the builder said is in the error.
func (e *Engine) Build(ctx context.Context, content io.Reader, o client.ImageBuildOptions) error {
	proxy, err := e.proxy()
	if err != nil {
		return err
	}
	o.NetworkMode, o.Remove, o.ForceRemove = "host", true, true
	args := map[string]*string{"http_proxy": &proxy} // predefined: neither in the image nor in the key of the cache
	for k, v := range o.BuildArgs {
		args[k] = v
	}
	o.BuildArgs = args
	r, err := e.Client.ImageBuild(ctx, content, o)
	if err != nil {
		return err
	}
	if said, err := readProgress(r.Body); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}

// proxy starts the way out when it is first needed.
func (e *Engine) proxy() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.relay == nil {
		r, err := startRelay(e.folder)
		if err != nil {
			return "", err
		}
		e.relay = r
	}
	return "http://" + e.relay.l.Addr().String(), nil
}

// readProgress reads the messages of the engine until it is done, and finds the error among them.
func readProgress(r io.ReadCloser) (said string, err error) {
	defer r.Close()
	var text bytes.Buffer
	for d := json.NewDecoder(r); ; {
		var m struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return text.String(), nil
		} else if err != nil {
			return text.String(), err
		}
		text.WriteString(m.Stream)
		if m.Error != "" {
			return text.String(), errors.New(m.Error)
		}
	}
}

// File is one file of a Tar.
type File struct {
	Name string
	Mode int64
	Data []byte
}

// Tar packs files, all root's and without a time, so that the builder's cache knows them again.
func Tar(files ...File) (io.Reader, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	return &b, w.Close()
}

// AtLeast reports whether the engine speaks that version of the API, such as 1.44.
func (e *Engine) AtLeast(t *testing.T, version string) bool {
	t.Helper()
	p, err := e.Client.Ping(t.Context(), client.PingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return versions.GreaterThanOrEqualTo(p.APIVersion, version)
}
