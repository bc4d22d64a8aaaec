package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// lister asks an engine for its list of containers by a connection of its own, because the client decodes all of each answer: with
// hundreds of containers that is most of what we do while nothing happens. A container that the last answer told of in the same bytes
// is not decoded again. It is used by one goroutine at a time.
type lister struct {
	c    *http.Client
	url  string
	seed maphash.Seed
	last map[uint64]entry // by the hash of its bytes
	buf  []byte
}

// entry is what the list says of one container.
type entry struct {
	id   string
	line line
}

const (
	listIdle    = time.Minute // how long the connection stays open; lists come more often
	listBuffer  = 32 << 10
	maxListLine = 1 << 10 // bytes of an engine's error that are told
)

// newLister gives nil where only the client knows how the engine is reached: with TLS, by a named pipe.
func newLister(host, version string) *lister {
	u, err := client.ParseHostURL(host)
	if err != nil || os.Getenv(client.EnvOverrideCertPath) != "" {
		return nil
	}
	tr := &http.Transport{MaxIdleConns: 1, IdleConnTimeout: listIdle, ReadBufferSize: listBuffer, DisableCompression: true}
	l := &lister{c: &http.Client{Transport: tr, Timeout: callTimeout}, seed: maphash.MakeSeed(), buf: make([]byte, listBuffer)}
	at := url.URL{Scheme: "http", Host: u.Host, Path: path.Join("/", u.Path, "v"+version, "containers/json"), RawQuery: "all=1"}
	switch u.Scheme {
	case "unix":
		var d net.Dialer
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", u.Host) }
		at.Host, at.Path = client.DummyHost, path.Join("/v"+version, "containers/json")
	case "tcp", "http":
		tr.Proxy = http.ProxyFromEnvironment
	default:
		return nil
	}
	l.url = at.String()
	return l
}

func (l *lister) close() { l.c.CloseIdleConnections() }

// list gives all containers, by id.
func (l *lister) list(ctx context.Context) (map[string]line, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := l.c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	next := make(map[uint64]entry, len(l.last))
	lines := make(map[string]line, len(l.last))
	err = elements(resp.Body, l.buf, func(element []byte) error {
		sum := l.sum(element)
		e, known := l.last[sum]
		if !known {
			var c container.Summary
			if err := json.Unmarshal(element, &c); err != nil {
				return err
			}
			e = entry{c.ID, lineOf(&c)}
		}
		next[sum] = e
		lines[e.id] = e.line
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the engine's answer: %w", err)
	}
	l.last = next
	return lines, nil
}

// sum is the hash of what the list says of a container, but for how long it has been up: that changes each minute, and nobody needs it.
func (l *lister) sum(element []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	for {
		before, status, found := bytes.Cut(element, upFor)
		_, _ = h.Write(before) // it never fails
		if !found {
			return h.Sum64()
		}
		// Inside a string the quotes of upFor would be escaped, so that this is the value of a field; of which one is no matter.
		end := bytes.IndexByte(status, '"')
		if end < 0 {
			end = len(status)
		}
		_, _ = h.Write(upFor)
		_, _ = h.WriteString(healthOf(string(status[:end])))
		element = status[end:]
	}
}

var upFor = []byte(`"Status":"Up `)

// refusal is the error that the engine tells.
func refusal(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxListLine))
	var told struct{ Message string }
	if json.Unmarshal(text, &told) == nil && told.Message != "" {
		text = []byte(told.Message)
	}
	return errors.Join(fmt.Errorf("the engine answers %s: %s", resp.Status, plain(strings.Join(strings.Fields(string(text)), " "))), err)
}

// elements calls each for the bytes of every element of a JSON array, without the space around it. Whether an element is good JSON is
// not looked at. What is passed is overwritten later.
func elements(r io.Reader, buf []byte, each func(element []byte) error) error {
	var s splitter
	for {
		n, err := r.Read(buf)
		if err := s.take(buf[:n], each); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.EOF):
			return s.end()
		case err != nil:
			return err
		}
	}
}

// splitter finds the elements of an array in text that comes in pieces.
type splitter struct {
	state   uint8
	quoted  bool   // inside a string
	escaped bool   // behind a backslash there
	depth   int    // of brackets, in an element
	part    []byte // of an element that began in an earlier piece
	word    []byte // what stands in place of an array
}

const (
	before  = iota // of the array
	first          // an element or the end may come
	element        // one is being read
	next           // one must come
	behind         // nothing may come
)

var (
	errNoList = errors.New("it is no list")
	errCut    = errors.New("it is cut")
)

const space = " \t\r\n"

func isSpace(b byte) bool { return strings.IndexByte(space, b) >= 0 }

func (s *splitter) take(text []byte, each func([]byte) error) error {
	from := 0 // where the element goes on
	for i := 0; i < len(text); i++ {
		if s.quoted {
			i += s.string(text[i:]) - 1
			continue
		}
		b := text[i]
		switch s.state {
		case element:
			done, err := s.step(b)
			if err != nil {
				return err
			}
			if !done {
				continue
			}
			s.part = append(s.part, text[from:i]...)
			whole := bytes.TrimRight(s.part, space)
			if err := each(whole); err != nil {
				return err
			}
			s.part = s.part[:0]
			if s.state = next; b == ']' {
				s.state = behind
			}
		case before:
			if b == '[' && len(s.word) == 0 {
				s.state = first
			} else if s.word = append(s.word, b); len(s.word) > 64 {
				return errNoList
			} else if len(bytes.TrimLeft(s.word, space)) == 0 {
				s.word = s.word[:0]
			}
		case behind:
			if !isSpace(b) {
				return errNoList
			}
		default:
			switch {
			case isSpace(b):
			case b == ']' && s.state == first:
				s.state = behind
			case b == ']' || b == ',' || b == '}':
				return errNoList
			default:
				s.state, from = element, i
				if _, err := s.step(b); err != nil {
					return err
				}
			}
		}
	}
	if s.state == element {
		s.part = append(s.part, text[from:]...)
	}
	return nil
}

// step looks at a byte of an element outside strings; done: the element has ended before it.
func (s *splitter) step(b byte) (done bool, err error) {
	switch b {
	case '"':
		s.quoted = true
	case '{', '[':
		s.depth++
	case '}', ']':
		if s.depth == 0 && b == ']' {
			return true, nil
		}
		if s.depth--; s.depth < 0 {
			return false, errNoList
		}
	case ',':
		return s.depth == 0, nil
	}
	return false, nil
}

// string goes on in a string, and says how many bytes of the text belong to it.
func (s *splitter) string(text []byte) int {
	quote := -1 // the next one from at on, or the end
	for at := 0; at < len(text); {
		if s.escaped {
			s.escaped = false
			at++
			continue
		}
		if quote < at {
			if quote = bytes.IndexByte(text[at:], '"'); quote < 0 {
				quote = len(text)
			} else {
				quote += at
			}
		}
		if escape := bytes.IndexByte(text[at:quote], '\\'); escape >= 0 {
			s.escaped = true
			at += escape + 1
			continue
		}
		if quote == len(text) {
			break
		}
		s.quoted = false
		return quote + 1
	}
	return len(text)
}

// end says why the text is not whole.
func (s *splitter) end() error {
	switch {
	case s.state == behind:
		return nil
	case s.state == before && string(bytes.TrimRight(s.word, space)) == "null": // as engines write none
		return nil
	case s.state == before && len(s.word) > 0:
		return errNoList
	}
	return errCut
}
