package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// namespaceFile has the namespace of a pod's service account.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Requests a second, and at once; client-go does not count watches (see session.hold).
const (
	requests = 5
	burst    = 50
)

// client asks one kind of object of one namespace.
type client struct {
	http      *http.Client
	rest      *rest.RESTClient
	namespace string
	resource  string
	selector  string
}

// CheckSelector says what is wrong with a label selector.
func CheckSelector(text string) error {
	_, err := labels.Parse(text)
	return err
}

// connect reads the configuration, which may have changed since the last time; it asks nothing yet.
func connect(o *Options) (*client, error) {
	config, namespace, err := configuration(o)
	if err != nil {
		return nil, err
	}
	c := &client{namespace: namespace, resource: "pods", selector: o.Selector}
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	if o.Service != "" {
		c.resource, c.selector = "endpointslices", labels.Set{discoveryv1.LabelServiceName: o.Service}.String()
		config.APIPath, config.GroupVersion = "/apis", &discoveryv1.SchemeGroupVersion
	}
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	if err := errors.Join(corev1.AddToScheme(s), discoveryv1.AddToScheme(s)); err != nil {
		return nil, fmt.Errorf("types of the Kubernetes API: %w", err)
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(s).WithoutConversion()
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	config.UserAgent, config.WarningHandler = "fnlb", rest.NoWarnings{}
	config.QPS, config.Burst = requests, burst
	if c.http, err = rest.HTTPClientFor(config); err == nil {
		c.rest, err = rest.RESTClientForConfigAndClient(config, c.http)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration of the cluster: %w", err)
	}
	return c, nil
}

// configuration finds the cluster and the namespace.
func configuration(o *Options) (config *rest.Config, namespace string, err error) {
	if o.Kubeconfig == "" && o.Context == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, "", fmt.Errorf("service account of our pod: %w; give the pod one (automountServiceAccountToken), or name a file with --kubeconfig", err)
		}
		if namespace = o.Namespace; namespace == "" {
			text, err := os.ReadFile(namespaceFile)
			if err != nil {
				return nil, "", fmt.Errorf("our own namespace: %w; name one with --namespace", err)
			}
			namespace = strings.TrimSpace(string(text))
		}
		return config, namespace, nil
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	rules.Warner = func(error) {} // what is missing is an error soon enough
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	if config, err = loader.ClientConfig(); err == nil {
		namespace, _, err = loader.Namespace()
	}
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, "", errors.New("no cluster is known here; run fnlb in a pod, or name a file with --kubeconfig")
	case errors.Is(err, fs.ErrPermission):
		return nil, "", fmt.Errorf("%w; let the user read it that fnlb runs as", err)
	case err != nil:
		return nil, "", fmt.Errorf("kubeconfig: %w; correct --kubeconfig or --kube-context", err)
	}
	return config, namespace, nil
}

func (c *client) close() { utilnet.CloseIdleConnectionsFor(c.http.Transport) }

// get is the request of a list or of a watch.
func (c *client) get(o metav1.ListOptions) *rest.Request {
	o.LabelSelector = c.selector
	if c.resource == "pods" { // those that have ended are many in some namespaces, and never come back
		o.FieldSelector = fields.ParseSelectorOrDie("status.phase!=Succeeded,status.phase!=Failed").String()
	}
	if o.Watch = o.TimeoutSeconds != nil; o.Watch { // a Reflector gives its watches a limit, and its lists none
		o.Limit = 0
	}
	return c.rest.Get().MaxRetries(0).Namespace(c.namespace).Resource(c.resource).
		SpecificallyVersionedParams(&o, metav1.ParameterCodec, schema.GroupVersion{Version: "v1"})
}

// kind is an object of those that are followed, listKind a list of them.
func (c *client) kind() runtime.Object {
	if c.resource == "pods" {
		return &corev1.Pod{}
	}
	return &discoveryv1.EndpointSlice{}
}

func (c *client) listKind() runtime.Object {
	if c.resource == "pods" {
		return &corev1.PodList{}
	}
	return &discoveryv1.EndpointSliceList{}
}

// trouble is an error as people read it. It is cut after some hundred bytes: what matters comes first.
type trouble struct {
	text  string
	cause error
}

func (t *trouble) Error() string { return t.text }
func (t *trouble) Unwrap() error { return t.cause }

// explained says which right is missing, and what else is for people to mend.
func (c *client) explained(verb string, err error) error {
	says := err.Error()
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		says = status.Status().Message
	}
	var asked *url.Error // has the whole URL in it
	if errors.As(err, &asked) {
		says = asked.Err.Error()
	}
	switch {
	case apierrors.IsForbidden(err):
		_, says, _ = strings.Cut(says, "forbidden: ")
		says = fmt.Sprintf("the right to %s %s is missing (403); a Role in namespace %s needs list and watch: %s", verb, c.resource, c.namespace, says)
	case apierrors.IsUnauthorized(err):
		says = fmt.Sprintf("%s %s in namespace %s: the API server does not take our token or certificate (401), which is read again each time", verb, c.resource, c.namespace)
	default:
		says = fmt.Sprintf("%s %s in namespace %s: %s", verb, c.resource, c.namespace, says)
	}
	return &trouble{says, err}
}
