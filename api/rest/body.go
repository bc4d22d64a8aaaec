package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// readNode reads {"node":"HOST:PORT"} and nothing else. The error says what is wrong.
func readNode(body []byte) (string, error) {
	const want = `send {"node":"HOST:PORT"}`
	if len(bytes.TrimSpace(body)) == 0 {
		return "", errors.New("the body is empty; " + want)
	}
	return readString(body, "node", want)
}

// readReason reads {"reason":"TEXT"} and nothing else; without a body there is no reason.
func readReason(body []byte) (string, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return "", nil
	}
	return readString(body, "reason", `send {"reason":"TEXT"}`)
}

// readString reads an object with one string and nothing else: encoding/json alone would take the last of two equal keys, any case
// of a key, null, and mended UTF-8.
func readString(body []byte, name, want string) (string, error) {
	if !utf8.Valid(body) {
		return "", errors.New("the body is not UTF-8; " + want)
	}
	if err := whole(body, want); err != nil {
		return "", err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	t, err := d.Token()
	if err != nil {
		return "", fmt.Errorf("the body is no JSON: %w; %s", err, want)
	}
	if t != json.Delim('{') {
		return "", fmt.Errorf("the body is %s, not an object; %s", kind(t), want)
	}
	text, found := "", false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("the body is no JSON: %w; %s", err, want)
		}
		if key != name {
			return "", fmt.Errorf("unknown key %s; %s", short(fmt.Sprint(key)), want)
		}
		if found {
			return "", fmt.Errorf("the key %q is there twice; %s", name, want)
		}
		value, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("the body is no JSON: %w; %s", err, want)
		}
		text, found = value.(string)
		if !found {
			return "", fmt.Errorf("the value of %q is %s, not a string; %s", name, kind(value), want)
		}
	}
	if !found {
		return "", fmt.Errorf("the key %q is missing; %s", name, want)
	}
	return text, nil
}

// whole reports what is wrong with body as one JSON value: its syntax, its depth, or something after it.
func whole(body []byte, want string) error {
	d := json.NewDecoder(bytes.NewReader(body))
	var value json.RawMessage
	if err := d.Decode(&value); err != nil {
		var syntax *json.SyntaxError
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the body is no JSON: it ends too early; " + want)
		case errors.As(err, &syntax):
			return fmt.Errorf("the body is no JSON: at byte %d: %s; %s", syntax.Offset, syntax.Error(), want)
		default:
			return fmt.Errorf("the body is no JSON: %w; %s", err, want)
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value; " + want)
	}
	return nil
}

func kind(t json.Token) string {
	switch t {
	case json.Delim('{'):
		return "an object"
	case json.Delim('['):
		return "an array"
	case nil:
		return "null"
	}
	switch t.(type) {
	case bool:
		return "a boolean"
	case string:
		return "a string"
	}
	return "a number"
}

// short quotes a text of an outsider for a message.
func short(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
