package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/discovery/kubernetes"
	"github.com/fnlb/fnlb/model"
)

// podSource makes the source of pods, with what an earlier process had when we go on with its HAProxy.
func (b *balancer) podSource(adopting bool) (discovery.Source, error) {
	k := &b.s.Kubernetes
	if err := kubernetes.CheckSelector(k.Selector); err != nil {
		return nil, &config.UsageError{
			Reason: fmt.Sprintf("--label-selector %.80q: %s", k.Selector, model.Printable(err.Error())), Hint: "write it as for kubectl -l: app=fn,role=fn-service",
		}
	}
	o := kubernetes.Options{
		Kubeconfig: k.Kubeconfig, Context: k.Context, Namespace: k.Namespace, Selector: k.Selector, Service: k.Service,
		Port: kubernetes.Port{Number: k.Port, Name: k.PortName}, NotReady: k.NotReady,
		Family: map[string]kubernetes.Family{"ipv4": kubernetes.IPv4, "ipv6": kubernetes.IPv6}[k.Family],
		Pool:   config.PoolService, Policy: b.s.NodePolicy, Now: time.Now, Log: b.log,
	}
	mark := fmt.Sprintf("%+v", *k)
	kept := discovery.Kept{File: b.dirs.kept("kubernetes"), Mark: mark, Log: b.log}
	err := b.recall(adopting, kept, "kubernetes", func(snapshot model.Snapshot, of string) {
		if of == mark { // else it tells of other pods
			o.Earlier = &snapshot
		}
	})
	b.pods = kubernetes.New(o)
	kept.Source = b.pods
	b.kept = append(b.kept, kept)
	return kept, err
}

// listed are nodes and pods as the API sees them: both are listed, and calls change nodes.
type listed struct {
	api.Nodes // nil: there are none, because of driver

	pods   *kubernetes.Source // nil: no pods
	driver string
}

var _ api.Nodes = listed{}

// apiNodes are the nodes of the API.
func (b *balancer) apiNodes() api.Nodes {
	l := listed{pods: b.pods, driver: b.s.NoNodes}
	if b.nodes != nil {
		l.Nodes = b.nodes
	}
	return l
}

// refused is the original's answer, word for word where the driver is its own.
func (l listed) refused(what string) error {
	return model.Problem{Kind: model.Conflict, Reason: fmt.Sprintf("%s driver does not support manual %s of targets", l.driver, what)}
}

// Set is that of the nodes.
func (l listed) Set(ctx context.Context, n string, w model.NodeWish) error {
	if l.Nodes == nil {
		return l.refused("addition")
	}
	return l.Nodes.Set(ctx, n, w)
}

// Delete is that of the nodes.
func (l listed) Delete(ctx context.Context, n string) error {
	if l.Nodes == nil {
		return l.refused("deletion")
	}
	return l.Nodes.Delete(ctx, n)
}

// List gives nodes and pods, sorted; what is both is one.
func (l listed) List() []model.NodeRow {
	var rows []model.NodeRow
	if l.Nodes != nil {
		rows = l.Nodes.List()
	}
	if l.pods == nil {
		return rows
	}
	rows = slices.Concat(rows, l.pods.List())
	slices.SortStableFunc(rows, func(a, b model.NodeRow) int { return strings.Compare(a.Node, b.Node) })
	return slices.CompactFunc(rows, func(a, b model.NodeRow) bool { return a.Node == b.Node })
}
