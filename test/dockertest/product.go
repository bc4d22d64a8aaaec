package dockertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/moby/moby/client"
)

// product builds the image of the Dockerfile with the binary of compile.sh. Its layers are kept beside the Debian root, for as long as
// the Dockerfile and that root stay the same, so that packages come over the network once.
func (e *Engine) product(ctx context.Context, name string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	binary := filepath.Join(e.folder, "fnlb")
	if out, err := exec.CommandContext(ctx, filepath.Join(root, "compile.sh"), binary).CombinedOutput(); err != nil {
		return fmt.Errorf("compile.sh: %w\n%s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	recipe, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		return err
	}
	kept, err := layersFile(recipe)
	if err != nil {
		return err
	}
	o := client.ImageBuildOptions{Tags: []string{name}}
	fresh := true
	switch err := e.load(ctx, kept); {
	case err == nil:
		o.CacheFrom, fresh = []string{name}, false
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("load %s: %w; remove that file", kept, err)
	}
	content, err := Tar(File{Name: "Dockerfile", Mode: 0o644, Data: recipe}, File{Name: "bin/fnlb", Mode: 0o755, Data: program})
	if err != nil {
		return err
	}
	if err := e.Build(ctx, content, o); err != nil || !fresh {
		return err
	}
	return e.save(ctx, kept, name, BaseImage)
}

// layersFile is where the layers of a Dockerfile on the present Debian root are kept.
func layersFile(recipe []byte) (string, error) {
	base, err := baseFile()
	if err != nil {
		return "", err
	}
	info, err := os.Stat(base)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %s", info.Size(), info.ModTime().UnixNano(), recipe))
	return filepath.Join(filepath.Dir(base), fmt.Sprintf("fnlb-%x.tar", sum[:8])), nil
}

func (e *Engine) load(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := e.Client.ImageLoad(ctx, f, client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	_, err = readProgress(r)
	return err
}

// save replaces the file whole. Those of other Dockerfiles go: they are made again faster than anybody would miss them.
func (e *Engine) save(ctx context.Context, file string, names ...string) (err error) {
	old, err := filepath.Glob(filepath.Join(filepath.Dir(file), "fnlb-*.tar"))
	if err != nil {
		return err
	}
	r, err := e.Client.ImageSave(ctx, names)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.CreateTemp(filepath.Dir(file), "new-")
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(r)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	for _, o := range old {
		if err := os.Remove(o); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
