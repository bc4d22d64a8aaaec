package templates

import (
	"reflect"
	"strconv"
	"text/template"
	"text/template/parse"
)

// serverLoop is a range over Servers or Backends whose body needs nothing but their fields, as most templates have one. It does what
// text/template does, write by write, in a tenth of the time: with thousands of servers it is nearly all of a rendering. Any other body,
// and any other list, is left to text/template.
type serverLoop []step

// step is one node of the body of a serverLoop.
type step struct {
	does  does
	text  []byte
	mark  mark // of text
	field int  // of a Backend
	yes   []step
	no    []step
}

type does uint8

const (
	writesText does = iota
	writesField
	asks // whether the field is empty
)

var backend = reflect.TypeFor[Backend]()

// loopName is the function by which the tree runs a serverLoop. No template can name it: it is not there when one is parsed.
const loopName = "fnlb_servers"

// withServers puts a serverLoop before a range that can be one: the range itself is for other lists, and for an empty one.
func (t *Template) withServers(n *parse.RangeNode) parse.Node {
	list, ok := listOf(n.Pipe)
	if !ok {
		return n
	}
	var variable string
	if d := n.Pipe.Decl; len(d) > 0 {
		variable = d[len(d)-1].Ident[0]
	}
	steps, ok := t.marks.steps(n.List, variable, -1)
	if !ok {
		return n
	}
	number := strconv.Itoa(len(t.loops))
	call := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{
		parse.NewIdentifier(loopName).SetPos(n.Pos),
		&parse.NumberNode{NodeType: parse.NodeNumber, Pos: n.Pos, IsInt: true, Int64: int64(len(t.loops)), Text: number},
		list,
	}}
	t.loops = append(t.loops, steps)
	return &parse.IfNode{BranchNode: parse.BranchNode{
		NodeType: parse.NodeIf, Pos: n.Pos, Line: n.Line,
		Pipe:     &parse.PipeNode{NodeType: parse.NodePipe, Pos: n.Pos, Line: n.Line, Cmds: []*parse.CommandNode{call}},
		List:     &parse.ListNode{NodeType: parse.NodeList, Pos: n.Pos},
		ElseList: &parse.ListNode{NodeType: parse.NodeList, Pos: n.Pos, Nodes: []parse.Node{n}},
	}}
}

// only gives the one operand of a pipeline that has no more than that.
func only(p *parse.PipeNode) (parse.Node, bool) {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return nil, false
	}
	return p.Cmds[0].Args[0], true
}

// listOf gives what a range goes over where that may be servers.
func listOf(p *parse.PipeNode) (parse.Node, bool) {
	var names []string
	n, _ := only(p)
	switch n := n.(type) {
	case *parse.FieldNode:
		names = n.Ident
	case *parse.VariableNode:
		names = n.Ident[1:]
	}
	if len(names) == 0 {
		return nil, false
	}
	last := names[len(names)-1]
	return n, last == "Servers" || last == "Backends"
}

// steps reads the body of a loop; dot is the field that a with around it is about, or -1. It reports whether all of it can be done.
func (m marks) steps(list *parse.ListNode, variable string, dot int) ([]step, bool) {
	if list == nil {
		return nil, true
	}
	var out []step
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			out = append(out, step{does: writesText, text: n.Text, mark: m[&n.Text[:1][0]]})
		case *parse.ActionNode:
			f, ok := fieldOf(n.Pipe, variable, dot)
			if !ok {
				return nil, false
			}
			out = append(out, step{does: writesField, field: f})
		case *parse.IfNode:
			s, ok := m.branch(&n.BranchNode, variable, dot, dot)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		case *parse.WithNode:
			f, _ := fieldOf(n.Pipe, variable, dot)
			s, ok := m.branch(&n.BranchNode, variable, dot, f)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		default:
			return nil, false
		}
	}
	return out, true
}

// branch reads an if or a with, whose dot within is another one.
func (m marks) branch(n *parse.BranchNode, variable string, dot, within int) (s step, ok bool) {
	s.does = asks
	if s.field, ok = fieldOf(n.Pipe, variable, dot); !ok {
		return s, false
	}
	if s.yes, ok = m.steps(n.List, variable, within); !ok {
		return s, false
	}
	s.no, ok = m.steps(n.ElseList, variable, dot)
	return s, ok
}

// fieldOf gives the field of a server that a pipeline is, where it is just that.
func fieldOf(p *parse.PipeNode, variable string, dot int) (int, bool) {
	n, ok := only(p)
	if !ok || len(p.Decl) > 0 {
		return 0, false
	}
	name := ""
	switch n := n.(type) {
	case *parse.DotNode:
		return dot, dot >= 0
	case *parse.FieldNode:
		if dot < 0 && len(n.Ident) == 1 {
			name = n.Ident[0]
		}
	case *parse.VariableNode:
		if len(n.Ident) == 2 && n.Ident[0] == variable {
			name = n.Ident[1]
		}
	}
	f, ok := backend.FieldByName(name)
	if !ok || len(f.Index) != 1 || !f.IsExported() || reflect.PointerTo(backend).NumMethod() > 0 {
		return 0, false
	}
	switch f.Type {
	case reflect.TypeFor[string](), reflect.TypeFor[int](), reflect.TypeFor[bool]():
		return f.Index[0], true
	}
	return 0, false
}

// servers makes the function of one rendering that runs a serverLoop. It reports false where the list is another one.
func (o *output) servers() template.FuncMap {
	return template.FuncMap{loopName: func(loop int, list any) (bool, error) {
		servers, ok := list.([]Backend)
		if !ok || len(servers) == 0 {
			return false, nil
		}
		all := reflect.ValueOf(servers)
		for i := range servers {
			if err := o.run(o.of.loops[loop], all.Index(i)); err != nil {
				return true, err
			}
		}
		return true, nil
	}}
}

func (o *output) run(steps []step, server reflect.Value) error {
	for i := range steps {
		var err error
		switch s := &steps[i]; s.does {
		case writesText:
			err = o.put(s.text, s.mark, true)
		case writesField:
			o.value = appendValue(o.value[:0], server.Field(s.field))
			err = o.put(o.value, mark{}, false)
		case asks:
			next := s.no
			if !server.Field(s.field).IsZero() {
				next = s.yes
			}
			err = o.run(next, server)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// appendValue writes a field as fmt does.
func appendValue(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.String:
		return append(b, v.String()...)
	case reflect.Int:
		return strconv.AppendInt(b, v.Int(), 10)
	default:
		return strconv.AppendBool(b, v.Bool())
	}
}
