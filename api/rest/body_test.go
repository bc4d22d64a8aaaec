package rest

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// What readNode takes has one reading, that of encoding/json; what it refuses gets one line.
func FuzzReadNode(f *testing.F) {
	for _, s := range []string{`{"node":"h:1"}`, `{"node":"h:1","node":"h:2"}`, `{"node":null}`, `{}`, `[]`, `{"node":"\ud800"}`, `{"node":"h:1"}{}`,
		"\xef\xbb\xbf{}", `{"node":{"node":"h:1"}}`, `{"n\u006fde":"a"}`, `{"node" "x"}`, `{"node":"x",}`, `{,"node":"x"}`, `{"node":1e999}`, "{\"\x00\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		node, err := readNode(body)
		if err != nil {
			if msg := err.Error(); !utf8.ValidString(msg) || strings.ContainsAny(msg, "\r\n\x00") || len(msg) > 1000 {
				t.Errorf("%q: error %q", body, msg)
			}
			return
		}
		var want map[string]string
		if err := json.Unmarshal(body, &want); err != nil || len(want) != 1 || want["node"] != node {
			t.Errorf("%q: read %q, encoding/json has %q, %v", body, node, want, err)
		}
		if strings.Count(string(body), `"node"`) > 2 { // the key once, and at most the value
			t.Errorf("%q: a second key was not seen", body)
		}
	})
}

// FuzzReadWish: what is read is what encoding/json has, within bounds.
func FuzzReadWish(f *testing.F) {
	for _, s := range []string{`{"node":"h:1"}`, `{"node":"h:1","weight":5,"state":"drain"}`, `{"node":"h:1","weight":5,"weight":6}`, `{"weight":256}`,
		`{"node":"h:1","weight":1e2}`, `{"node":"h:1","weight":-0}`, `{"node":"h:1","state":null}`, `{"node":"h:1","state":"ready","Weight":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		node, wish, err := readWish(body)
		if err != nil {
			if msg := err.Error(); !utf8.ValidString(msg) || strings.ContainsAny(msg, "\r\n\x00") || len(msg) > 1000 {
				t.Errorf("%q: error %q", body, msg)
			}
			return
		}
		var want struct {
			Node   *string
			Weight *int
			State  *string
		}
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil || want.Node == nil || *want.Node != node || (want.Weight == nil) != (wish.Weight == nil) || (want.State == nil) != (wish.Admin == nil) {
			t.Fatalf("%q: read %q %+v, encoding/json has %+v, %v", body, node, wish, want, err)
		}
		if wish.Weight != nil && (wish.Weight.Int() != *want.Weight || *want.Weight < 0 || *want.Weight > 256) || wish.Admin != nil && wish.Admin.String() != *want.State {
			t.Errorf("%q: read %+v", body, wish)
		}
	})
}

// The same for readReason, which takes an empty body as well.
func FuzzReadReason(f *testing.F) {
	for _, s := range []string{``, ` `, `{"reason":"x"}`, `{"reason":"x","reason":"y"}`, `{"node":"h:1"}`, `{"reason":null}`, `{"reason":"\u0000"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		reason, err := readReason(body)
		if err != nil || strings.TrimSpace(string(body)) == "" {
			return
		}
		var want map[string]string
		if err := json.Unmarshal(body, &want); err != nil || len(want) != 1 || want["reason"] != reason {
			t.Errorf("%q: read %q, encoding/json has %q, %v", body, reason, want, err)
		}
	})
}
