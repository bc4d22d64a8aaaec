package metrics

import (
	"log/slog"
	"net/http"
	"runtime"
	"strings"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/model"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are what the metrics are made of.
type Options struct {
	Reporter   api.Reporter
	Version    string        // ours
	Panics     func() uint64 // of the management API's handlers
	LogDropped func() uint64 // lines of our log that did not reach its output
	Log        *slog.Logger
}

// New makes the handler of a scrape.
func New(o Options) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(view{o}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(o.Log.Handler(), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError,
	})
}

var (
	applies = prometheus.NewDesc("fnlb_applies_total", "Applies to HAProxy, by how they reached it and how they ended.", []string{"method", "result"}, nil)
	seconds = prometheus.NewDesc("fnlb_apply_seconds", "How long applies took, from the first step to HAProxy's confirmation.", nil, nil)
	reloads = prometheus.NewDesc("fnlb_reload_reasons_total", "Reloads of HAProxy, by the sort of reason; one reload may have several.", []string{"reason"}, nil)
	sources = prometheus.NewDesc("fnlb_source_up", "1 while the source sees its world; while it is 0 its last truth stays.", []string{"source"}, nil)
	doubted = prometheus.NewDesc("fnlb_source_doubts", "Services of which the source suddenly lists much less, which is not believed yet.", []string{"source"}, nil)
	servers = prometheus.NewDesc("fnlb_servers", "Servers, by service and health.", []string{"service", "state"}, nil)
	build   = prometheus.NewDesc("fnlb_build_info", "Always 1; the labels tell the versions.", []string{"version", "goversion", "haproxy"}, nil)
	ready   = prometheus.NewDesc("fnlb_ready", "1 while HAProxy runs an accepted configuration and the balancer is not stopping.", nil, nil)
	reduced = prometheus.NewDesc("fnlb_degraded", "How many things keep the balancer from being wholly well; /1/lb/readyz names them.", nil, nil)
	frozen  = prometheus.NewDesc("fnlb_frozen", "1 while nothing is applied because somebody froze the balancer.", nil, nil)
	trouble = prometheus.NewDesc("fnlb_problems", "Problems that /1/lb/status lists, by kind.", []string{"kind"}, nil)
	starts  = prometheus.NewDesc("fnlb_haproxy_restarts_total", "How often HAProxy died and was started again.", nil, nil)
	silent  = prometheus.NewDesc("fnlb_haproxy_silent", "1 while HAProxy does not answer questions.", nil, nil)
	resumed = prometheus.NewDesc("fnlb_haproxy_continued_total", "How often somebody had stopped a process of HAProxy, which was told to go on.", nil, nil)
	mended  = prometheus.NewDesc("fnlb_files_mended_total", "Files that HAProxy would read, which somebody changed and which were written again.", nil, nil)
	panics  = prometheus.NewDesc("fnlb_panics_total", "Panics of management calls; each is a fault of the balancer.", nil, nil)
	dropped = prometheus.NewDesc("fnlb_log_lines_dropped_total", "Lines of the log that were dropped, because nobody read them in time or they could not be written.", nil, nil)
)

// view turns Status and Counters into metrics.
type view struct{ o Options }

// Describe names all metrics.
func (v view) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{applies, seconds, reloads, sources, doubted, servers, build, ready, reduced, frozen, trouble, starts, silent, resumed, mended, panics, dropped} {
		ch <- d
	}
}

// Collect reads the Reporter.
func (v view) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, clean(labels)...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), clean(labels)...)
	}
	c := v.o.Reporter.Counters()
	for key, n := range c.Applies {
		counter(applies, n, string(key.Method), key.Result)
	}
	ch <- prometheus.MustNewConstHistogram(seconds, c.Seconds.Count, c.Seconds.Sum, c.Seconds.Buckets)
	for reason, n := range c.Reloads {
		counter(reloads, n, reason)
	}
	s := v.o.Reporter.Status()
	for name, src := range byName(s.Sources) {
		gauge(sources, truth(src.Up), name)
		gauge(doubted, float64(src.Doubts), name)
	}
	for service, byHealth := range count(s.Servers) {
		for h, n := range byHealth {
			gauge(servers, float64(n), service, model.Health(h).String())
		}
	}
	kinds := map[string]int{}
	for _, k := range []model.Kind{model.Invalid, model.Conflict, model.NotFound, model.Refused, model.Unavailable} {
		kinds[k.String()] = 0
	}
	for _, p := range s.Problems {
		kinds[p.Kind.String()]++
	}
	for kind, n := range kinds {
		gauge(trouble, float64(n), kind)
	}
	gauge(build, 1, v.o.Version, runtime.Version(), s.HAProxy.Version)
	gauge(ready, truth(s.Phase == model.Serving))
	gauge(reduced, float64(len(s.Degraded)))
	gauge(frozen, truth(s.Frozen != nil))
	counter(starts, s.HAProxy.Restarts)
	gauge(silent, truth(s.HAProxy.Silent))
	counter(resumed, s.HAProxy.Continued)
	counter(mended, s.HAProxy.Mended)
	counter(panics, v.o.Panics())
	counter(dropped, v.o.LogDropped())
}

// count gives the servers of each service by health; a health that none has is 0, so that no series comes and goes.
func count(list []model.ServerStatus) map[string]*[model.Healths]int {
	services := map[string]*[model.Healths]int{}
	for i := range list {
		n := services[list[i].Service]
		if n == nil {
			n = new([model.Healths]int)
			services[list[i].Service] = n
		}
		if int(list[i].Health) < len(n) {
			n[list[i].Health]++
		}
	}
	return services
}

func byName(list []model.SourceStatus) map[string]model.SourceStatus {
	sources := make(map[string]model.SourceStatus, len(list))
	for _, s := range list {
		sources[s.Name] = s
	}
	return sources
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// clean keeps a label that is no UTF-8 from ending the whole scrape.
func clean(labels []string) []string {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "?")
	}
	return labels
}
