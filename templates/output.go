package templates

import (
	"bytes"
	"fmt"
	"slices"
	"text/template/parse"
	"time"
)

// marks says what a write of text/template is, by the first byte of what is written: Execute writes the Text of a text node as it
// stands in the tree. So the tree itself tells where the execution is, at the price of a look into a map. Beside the texts of the
// template there are nodes of our own: their Text has no bytes and room for one, so that nothing of them reaches the output.
type marks map[*byte]mark

// mark is one node of the tree.
type mark struct {
	line int // of the template, from 1
	kind kind
}

type kind uint8

const (
	text  kind = iota // of the template: each line end in it is one of the template
	value             // what an action gives follows
	loop              // a round of range begins
	enter             // a template begins
	leave             // and ends
)

func (m marks) node(k kind, line int, pos parse.Pos) parse.Node {
	name := make([]byte, 0, 1)
	m[&name[:1][0]] = mark{line, k}
	return &parse.TextNode{NodeType: parse.NodeText, Pos: pos, Text: name}
}

// part marks one template of the source. The error belongs to the line.
func (t *Template) part(root *parse.ListNode, starts []int) (line int, err error) {
	if line, err = t.list(root, starts, 0); err != nil {
		return line, err
	}
	line = 1
	if len(root.Nodes) > 0 {
		line = lineAt(starts, root.Nodes[0].Position())
	}
	root.Nodes = slices.Concat([]parse.Node{t.marks.node(enter, line, root.Pos)}, root.Nodes, []parse.Node{t.marks.node(leave, line, root.Pos)})
	return 0, nil
}

func (t *Template) list(list *parse.ListNode, starts []int, depth int) (line int, err error) {
	if list == nil {
		return 0, nil
	}
	var nodes []parse.Node
	for _, n := range list.Nodes {
		var lists []*parse.ListNode
		at := 0
		switch n := n.(type) {
		case *parse.TextNode:
			n.Text = bytes.Clone(n.Text) // for an address of its own
			t.marks[&n.Text[0]] = mark{lineAt(starts, n.Pos), text}
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 {
				nodes = append(nodes, t.marks.node(value, n.Line, n.Pos))
			}
		case *parse.IfNode:
			lists, at = []*parse.ListNode{n.List, n.ElseList}, n.Line
		case *parse.WithNode:
			lists, at = []*parse.ListNode{n.List, n.ElseList}, n.Line
		case *parse.RangeNode:
			lists, at = []*parse.ListNode{n.List, n.ElseList}, n.Line
		}
		if len(lists) > 0 && depth == maxNesting {
			return at, fmt.Errorf("its blocks are nested more than %d deep", maxNesting)
		}
		for _, l := range lists {
			if line, err := t.list(l, starts, depth+1); err != nil {
				return line, err
			}
		}
		if loops, ok := n.(*parse.RangeNode); ok {
			loops.List.Nodes = append([]parse.Node{t.marks.node(loop, loops.Line, loops.Pos)}, loops.List.Nodes...)
			if t.fast {
				n = t.withServers(loops)
			}
		}
		nodes = append(nodes, n)
	}
	list.Nodes = nodes
	return 0, nil
}

// lineStarts gives the offsets at which lines begin.
func lineStarts(source []byte) []int {
	starts := []int{0}
	for i, c := range source {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

func lineAt(starts []int, pos parse.Pos) int {
	i, exact := slices.BinarySearch(starts, int(pos))
	if exact {
		return i + 1
	}
	return i
}

// rangesOverAll gives the line of a loop over the dot that the template as a whole gets, which is no list; 0: there is none.
func rangesOverAll(list *parse.ListNode) int {
	if list == nil {
		return 0
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.RangeNode:
			if len(n.Pipe.Cmds) == 1 && len(n.Pipe.Cmds[0].Args) == 1 && n.Pipe.Cmds[0].Args[0].Type() == parse.NodeDot {
				return n.Line
			}
		case *parse.IfNode: // it leaves the dot alone
			for _, l := range []*parse.ListNode{n.List, n.ElseList} {
				if line := rangesOverAll(l); line > 0 {
					return line
				}
			}
		}
	}
	return 0
}

// output takes what one execution writes, within its limits, and notes for each line which line of the template made it: the one
// of its first byte that is no space, else the one of its first byte.
type output struct {
	of    *Template
	end   time.Time // of the execution
	text  bytes.Buffer
	calls int // templates that run now
	line  int // of the template, where the execution is
	value []byte

	lines []int // of the template, for each line that has ended
	from  int   // the same for the one that is being written
	begun bool  // something stands in it
	solid bool  // something other than space does
}

// Write takes what the execution writes; an error ends it.
func (o *output) Write(b []byte) (int, error) {
	m, known := mark{}, false
	if cap(b) > 0 {
		m, known = o.of.marks[&b[:1][0]]
	}
	if err := o.put(b, m, known); err != nil {
		return 0, err
	}
	return len(b), nil
}

// put is Write of what is known to be of the template, or not.
func (o *output) put(b []byte, m mark, known bool) error {
	if known {
		if m.kind == leave {
			o.calls--
			return nil
		}
		o.line = m.line
		if m.kind == enter {
			if o.calls++; o.calls > maxCalls {
				return o.of.errorAt(o.line, fmt.Errorf("templates call each other more than %d deep", maxCalls))
			}
		}
		if (m.kind == enter || m.kind == loop) && time.Now().After(o.end) {
			return o.of.errorAt(o.line, fmt.Errorf("it ran for more than %s", o.of.limits.time))
		}
	}
	if o.text.Len()+len(b) > o.of.limits.text {
		return o.of.errorAt(o.line, fmt.Errorf("its text has more than %d bytes", o.of.limits.text))
	}
	if len(o.lines) > o.of.limits.lines {
		return o.of.errorAt(o.line, fmt.Errorf("its text has more than %d lines", o.of.limits.lines))
	}
	o.text.Write(b)
	o.follow(b, known && m.kind == text)
	return nil
}

// follow notes the lines that b ends and begins; with moves, b is text of the template.
func (o *output) follow(b []byte, moves bool) {
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte{'\n'})
		if !o.begun {
			o.from, o.begun = o.line, true
		}
		if !o.solid && len(bytes.TrimLeft(part, " \t\r")) > 0 {
			o.from, o.solid = o.line, true
		}
		if !ended {
			return
		}
		o.lines = append(o.lines, o.from)
		o.begun, o.solid = false, false
		if moves {
			o.line++
		}
		b = rest
	}
}

// finish gives the map of all lines.
func (o *output) finish() []int {
	if o.begun {
		o.lines = append(o.lines, o.from)
	}
	return o.lines
}
