package app

import (
	"fmt"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

// sources are those that the settings ask for.
func (b *balancer) sources(adopting bool) ([]discovery.Source, error) {
	sources := []discovery.Source{discovery.Static{Snapshot: model.Snapshot{Source: "flags", Offers: offersOf(&b.s)}}}
	if err := b.openStore(); err != nil {
		return nil, err
	}
	if b.s.NoNodes == "" {
		nodes, err := b.nodeSource(adopting)
		if err != nil {
			return nil, err
		}
		sources = append(sources, nodes)
	}
	if b.s.Kubernetes.On {
		pods, err := b.podSource(adopting)
		if err != nil {
			return nil, err
		}
		sources = append(sources, pods)
	}
	if b.s.Pools.Port != 0 {
		pools, err := b.poolSources(adopting)
		if err != nil {
			return nil, err
		}
		sources = append(sources, pools...)
	}
	if b.s.Docker {
		containers, err := b.containerSource(adopting)
		if err != nil {
			return nil, err
		}
		sources = append(sources, containers)
	}
	if b.s.StatsPort != 0 {
		b.log.Info(fmt.Sprintf("HAProxy statistics port is %d", b.s.StatsPort))
		b.log.Warn("whoever reaches the statistics port sees the page", "port", b.s.StatsPort)
	}
	return sources, nil
}
