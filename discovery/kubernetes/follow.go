package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	firstPause   = 100 * time.Millisecond // before a cluster that went is asked again, doubled from then on
	maxPause     = 5 * time.Second
	steady       = 30 * time.Second // a session that lasted for so long was a good one
	pageSize     = 500              // objects in an answer of a list
	pageTimeout  = 30 * time.Second
	watchStart   = 30 * time.Second // until the API server has begun to answer a watch
	shortWatch   = time.Second      // a watch that lasts no longer has ended at once
	quickWatches = 3                // of these in a row are followed by the next one at once
	listShare    = 20               // lists take at most this part of the time, when one comes after the other
)

// silence keeps the libraries from writing to standard error by themselves: what goes wrong comes back as an error, and is told once.
var silence = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// follow keeps the world up to date until ctx ends.
func (s *Source) follow(ctx context.Context) {
	silence()
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		n := &session{Source: s}
		err := n.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.lost(err)
		}
		if time.Since(began) > steady {
			pause = firstPause
		}
		sleep(ctx, max(jitter(pause), listShare*n.listing))
		pause = min(2*pause, maxPause)
	}
}

// jitter is three quarters to five quarters of a pause: the balancers of a cluster shall not all come back in one moment.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/2+1)) //nolint:gosec // it is no secret
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// lost notes that the cluster cannot be seen, and why.
func (s *Source) lost(err error) {
	var ours *trouble
	if errors.As(err, &ours) { // without what the Reflector puts before it
		err = ours
	}
	s.mu.Lock()
	s.away = plain(err.Error())
	s.mu.Unlock()
	s.signal()
}

// seen notes that events come again.
func (s *Source) seen() {
	s.mu.Lock()
	was := s.away
	s.away = ""
	s.mu.Unlock()
	if was != "" {
		s.signal()
	}
}

// session is one list and the watches behind it, until one of them cannot go on from where the last one ended.
type session struct {
	*Source
	c       *client
	listing time.Duration // that the list took of our own time
	opened  time.Time     // when the last watch was
	short   int           // watches in a row that ended at once
}

func (n *session) run(ctx context.Context) (err error) {
	if n.c, err = connect(&n.o); err != nil {
		return err
	}
	defer n.c.close()
	r := cache.NewReflectorWithOptions(&cache.ListWatch{ListWithContextFunc: n.list, WatchFuncWithContext: n.watch}, n.c.kind(), n, cache.ReflectorOptions{Name: name})
	r.WatchListPageSize = pageSize
	return r.ListAndWatchWithContext(ctx)
}

// list gets a page. The first one asks for what is true now: a list from a cache may be older than what was seen before.
func (n *session) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.Continue == "" {
		o.ResourceVersion, o.ResourceVersionMatch = "", ""
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	list := n.c.listKind()
	if err := n.c.get(o).Do(ctx).Into(list); err != nil {
		return nil, n.c.explained("list", err)
	}
	begin := time.Now()
	n.strip(list)
	n.listing += time.Since(begin)
	return list, nil
}

// strip leaves of a page's objects what is made of them: a list of thousands of pods is held in memory whole before it is read.
func (n *session) strip(list runtime.Object) {
	switch l := list.(type) {
	case *corev1.PodList:
		for i := range l.Items {
			l.Items[i] = stripped(&l.Items[i])
		}
	case *discoveryv1.EndpointSliceList: // has hardly more than what is needed
	}
}

// stripped is a pod with what readPod reads.
func stripped(p *corev1.Pod) corev1.Pod {
	var out corev1.Pod
	out.Namespace, out.Name, out.UID, out.ResourceVersion = p.Namespace, p.Name, p.UID, p.ResourceVersion
	out.CreationTimestamp, out.DeletionTimestamp = p.CreationTimestamp, p.DeletionTimestamp
	out.Status.Phase, out.Status.PodIP, out.Status.PodIPs = p.Status.Phase, p.Status.PodIP, p.Status.PodIPs
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	for i := range p.Spec.Containers {
		out.Spec.Containers = append(out.Spec.Containers, corev1.Container{Ports: p.Spec.Containers[i].Ports})
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		out.Spec.InitContainers = append(out.Spec.InitContainers, corev1.Container{Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return out
}

// watch opens a stream of events. As long as the API server is only away it is asked again from where the last stream ended, which costs
// it nothing; only when it says that it cannot go on from there everything is listed again.
func (n *session) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	n.hold(ctx)
	pause := firstPause
	for {
		w, err := n.open(ctx, o)
		var status apierrors.APIStatus
		switch {
		case err == nil:
			n.seen()
			n.opened = time.Now()
			return w, nil
		case ctx.Err() != nil || errors.As(err, &status) && !apierrors.IsTooManyRequests(err) && status.Status().Code < 500:
			return nil, err
		}
		n.lost(err)
		sleep(ctx, jitter(pause))
		pause = min(2*pause, maxPause)
	}
}

// hold pauses when the last watches have ended as soon as they had begun: neither client-go nor its Reflector does, where an event came.
func (n *session) hold(ctx context.Context) {
	if time.Since(n.opened) > shortWatch {
		n.short = 0
		return
	}
	if n.short++; n.short > quickWatches {
		sleep(ctx, jitter(min(firstPause<<min(n.short-quickWatches, 10), maxPause)))
	}
}

// open begins a stream, within watchStart: from then on it is the Reflector that ends it.
func (n *session) open(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(watchStart, func() { cancel(fmt.Errorf("the API server did not answer within %s", watchStart)) })
	w, err := n.c.get(o).Watch(ctx)
	if !late.Stop() && err == nil {
		w.Stop()
		err = context.Cause(ctx)
	}
	if _, is := w.(*watch.StreamWatcher); err == nil && !is { // client-go makes an empty stream of a connection that was closed
		err = errors.New("the connection was closed before there was an answer")
	}
	if err != nil {
		err = n.c.explained("watch", err)
		cancel(nil)
		return nil, err
	}
	return stream{w, func() { cancel(nil) }}, nil
}

// stream is a watch with what ends its request.
type stream struct {
	watch.Interface
	cancel func()
}

func (s stream) Stop() {
	s.Interface.Stop()
	s.cancel()
}

// The rest is what the Reflector calls (cache.ReflectorStore), from one goroutine.

var _ cache.ReflectorStore = (*session)(nil)

// Add takes in an object that an event tells of.
func (n *session) Add(object any) error {
	key, entries := n.read(object)
	n.mu.Lock()
	fresh, leaves := n.world.set(key, entries)
	n.urgent = n.urgent || leaves
	n.mu.Unlock()
	if fresh {
		n.signal()
	}
	return nil
}

// Update is Add.
func (n *session) Update(object any) error { return n.Add(object) }

// Delete takes out an object that an event tells of.
func (n *session) Delete(object any) error {
	key, _ := n.read(object)
	n.mu.Lock()
	n.world.remove(key)
	n.urgent = true
	n.mu.Unlock()
	n.signal()
	return nil
}

// Replace takes in a whole list.
func (n *session) Replace(list []any, _ string) error {
	begin := time.Now()
	objects := make(map[string][]entry, len(list))
	for _, object := range list {
		key, entries := n.read(object)
		objects[key] = entries
	}
	n.mu.Lock()
	n.world.replace(objects)
	n.listed = true
	n.mu.Unlock()
	n.listing += time.Since(begin)
	n.signal()
	return nil
}

// Resync does nothing: whoever reads a Snapshot has everything.
func (n *session) Resync() error { return nil }

// read gives an object's name and what is kept of it.
func (n *session) read(object any) (key string, entries []entry) {
	switch o := object.(type) {
	case *corev1.Pod:
		return o.Namespace + "/" + o.Name, []entry{n.o.readPod(o)}
	case *discoveryv1.EndpointSlice:
		return o.Namespace + "/" + o.Name, n.o.readSlice(o)
	}
	return "", nil // the Reflector has looked at the type
}
