package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/fnlb/fnlb/model"
)

const wantNode = `send {"node":"HOST:PORT"}`

// readNode reads {"node":"HOST:PORT"} and nothing else. The error says what is wrong.
func readNode(body []byte) (string, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return "", errors.New("the body is empty; " + wantNode)
	}
	return readString(body, "node", wantNode)
}

// readWish reads {"node":"HOST:PORT"}, and what is wished for about the node: "weight" from 0 to 256, "state" ready, drain or maint.
func readWish(body []byte) (node string, w model.NodeWish, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return "", model.NodeWish{}, errors.New("the body is empty; " + wantNode)
	}
	values, err := readObject(body, wantNode, "node", "weight", "state")
	if err != nil {
		return "", model.NodeWish{}, err
	}
	if node, err = text(values, "node", wantNode); err != nil {
		return "", model.NodeWish{}, err
	}
	if v, given := values["weight"]; given {
		weight, err := readWeight(v)
		if err != nil {
			return "", model.NodeWish{}, err
		}
		w.Weight = &weight
	}
	if _, given := values["state"]; given {
		const want = `the state is one of "ready", "drain" and "maint"`
		state, err := text(values, "state", want)
		if err != nil {
			return "", model.NodeWish{}, err
		}
		w.Admin = new(model.Admin)
		if w.Admin.UnmarshalText([]byte(state)) != nil {
			return "", model.NodeWish{}, fmt.Errorf("the state %s is not known; %s", short(state), want)
		}
	}
	return node, w, nil
}

func readWeight(v json.Token) (model.Weight, error) {
	const want = "the weight is a whole number from 0 to 256, where 1 is a node's usual one"
	number, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf("the value of \"weight\" is %s, not a number; %s", kind(v), want)
	}
	n, err := strconv.Atoi(number.String())
	if err == nil {
		if weight, err := model.NewWeight(n); err == nil {
			return weight, nil
		}
	}
	return 0, fmt.Errorf("the weight %s is not allowed; %s", short(number.String()), want)
}

// readReason reads {"reason":"TEXT"} and nothing else; without a body there is no reason.
func readReason(body []byte) (string, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return "", nil
	}
	return readString(body, "reason", `send {"reason":"TEXT"}`)
}

// readString reads an object with one string and nothing else.
func readString(body []byte, name, want string) (string, error) {
	values, err := readObject(body, want, name)
	if err != nil {
		return "", err
	}
	return text(values, name, want)
}

// text is a value that must be there and be a string.
func text(values map[string]json.Token, name, want string) (string, error) {
	v, found := values[name]
	if !found {
		return "", fmt.Errorf("the key %q is missing; %s", name, want)
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("the value of %q is %s, not a string; %s", name, kind(v), want)
	}
	return s, nil
}

// readObject reads an object with no other keys than these, each once at most: encoding/json alone would take the last of two equal
// keys, any case of a key, null, and mended UTF-8. A value that is an object or an array is given by its bracket, and ends the reading:
// none of ours is.
func readObject(body []byte, want string, keys ...string) (map[string]json.Token, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("the body is not UTF-8; " + want)
	}
	if err := whole(body, want); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("the body is no JSON: %w; %s", err, want)
	}
	if t != json.Delim('{') {
		return nil, fmt.Errorf("the body is %s, not an object; %s", kind(t), want)
	}
	values := map[string]json.Token{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("the body is no JSON: %w; %s", err, want)
		}
		name, isText := key.(string)
		if !isText || !slices.Contains(keys, name) {
			return nil, fmt.Errorf("unknown key %s; %s", short(fmt.Sprint(key)), want)
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("the key %q is there twice; %s", name, want)
		}
		value, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("the body is no JSON: %w; %s", err, want)
		}
		if _, nested := value.(json.Delim); nested {
			wanted := "a string"
			if name == "weight" {
				wanted = "a number"
			}
			return nil, fmt.Errorf("the value of %q is %s, not %s; %s", name, kind(value), wanted, want)
		}
		values[name] = value
	}
	return values, nil
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
