package supervisor

import (
	"fmt"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// next is the configuration that a job is about: one that is there already, or the State's.
func (s *Supervisor) next(out *outcome) (*accepted, error) {
	switch {
	case out.back:
		return s.lastGood(out)
	case out.fixed != nil:
		return out.fixed, nil
	}
	return s.render(out.job, out.state)
}

// render makes the configuration of a State. One that gives the text in force is not read again.
func (s *Supervisor) render(j job, st model.State) (*accepted, error) {
	bundle, err := j.renderer.Render(st, j.abilities)
	if err != nil {
		return nil, err
	}
	next := &accepted{bundle: bundle, revision: bundle.Revision(), state: st, renderer: j.renderer}
	if j.inForce != nil && j.inForce.revision == next.revision {
		next.text = j.inForce.text
		return next, nil
	}
	if next.text, err = conf.Parse(bundle.Main); err != nil {
		return nil, place(fmt.Errorf("read the rendered text: %w", err), bundle, "line ")
	}
	return next, nil
}
