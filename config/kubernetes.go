package config

import (
	"slices"
	"strconv"
	"strings"
)

// Kubernetes says which pods of which cluster are nodes.
type Kubernetes struct {
	On         bool
	Kubeconfig string // file; empty: the service account of our pod, else kubectl's
	Context    string // empty: the current one
	Namespace  string // empty: our own
	Selector   string // not judged yet
	Service    string // whose endpoints are taken; empty: pods
	Port       uint16 // of the pods; 0: PortName, or the one that the service has
	PortName   string
	NotReady   bool   // running is enough
	Family     string // any, ipv4 or ipv6
}

// drivers are the sources that --driver names. Rest is the name that nodes had in the original.
var drivers = map[string]string{"kubernetes": "kubernetes", "nodes": "nodes", "rest": "nodes", "docker": "docker"}

// dbKubernetes is the database that is none: the other spelling of --driver kubernetes.
const dbKubernetes = "k8s"

// setDriver reads the list of sources; what it means for them is for kubernetes to say, when all flags are read.
func setDriver(s *Settings, text string) error {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		driver, ok := drivers[part]
		switch {
		case part == "":
		case !ok:
			return usage("write kubernetes, or several of kubernetes, nodes and docker with commas between", "there is no driver %.40q", part)
		case !slices.Contains(s.drivers, driver):
			s.drivers = append(s.drivers, driver)
		}
	}
	return nil
}

// driversOf reads both flags before anything is judged.
func driversOf(driver, db string) []string {
	var s Settings
	_ = setDriver(&s, driver) // a wrong one is refused soon enough
	if db == dbKubernetes {
		s.drivers = append(s.drivers, "kubernetes")
	}
	return s.drivers
}

// kubernetes completes what --driver and --db k8s say together. With drivers named these are the sources and no others, but that an
// engine which --docker names is followed all the same.
func kubernetes(s *Settings, portGiven bool) error {
	k := &s.Kubernetes
	named := func(driver string) bool { return slices.Contains(s.drivers, driver) }
	if k.On && !named("kubernetes") { // by --db
		s.drivers = append(s.drivers, "kubernetes")
	}
	k.On = named("kubernetes")
	if !k.On {
		for _, f := range []struct{ name, value string }{
			{"label-selector", k.Selector}, {"namespace", k.Namespace}, {"service", k.Service}, {"kubeconfig", k.Kubeconfig}, {"kube-context", k.Context},
		} {
			if f.value != "" {
				s.Warnings = append(s.Warnings, "--"+f.name+" has no effect without --driver kubernetes")
			}
		}
	}
	if k.Service != "" {
		if k.Selector != "" {
			return usage("leave one of them out", "--service and --label-selector both say which pods are nodes")
		}
		if !portGiven {
			k.Port = 0
		}
	}
	if len(s.drivers) == 0 {
		return nil
	}
	s.engineAsked, s.engineUnasked = named("docker"), !named("docker")
	if !named("nodes") {
		s.NoNodes = s.drivers[0]
		if len(s.Nodes) > 0 {
			s.Warnings = append(s.Warnings, "--nodes is ignored with --driver "+s.NoNodes+"; --driver "+s.NoNodes+",nodes takes both")
			s.Nodes = nil
		}
	}
	return nil
}

// setNamespace reads the name of a namespace, or of what else has such a name (RFC 1123, label).
func setNamespace(s *Settings, text string) error {
	return setLabel(func(s *Settings) *string { return &s.Kubernetes.Namespace })(s, text)
}

func setKubernetesService(s *Settings, text string) error {
	return setLabel(func(s *Settings) *string { return &s.Kubernetes.Service })(s, text)
}

func setLabel(at func(*Settings) *string) setter {
	return func(s *Settings, text string) error {
		if text != "" && !isLabel(text) {
			return usage("write its name as kubectl shows it", "it is no name in a cluster: small letters, digits and - within, at most 63")
		}
		*at(s) = text
		return nil
	}
}

func isLabel(text string) bool {
	for i := range len(text) {
		c := text[i]
		edge := i == 0 || i == len(text)-1
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || edge) {
			return false
		}
	}
	return len(text) <= 63
}

// setTargetPort reads a port's number, or its name (RFC 6335, section 5.1: letters, digits and -, at most 15, one letter at least).
func setTargetPort(s *Settings, text string) error {
	k := &s.Kubernetes
	if n, err := strconv.ParseUint(text, 10, 16); err == nil && n > 0 {
		k.Port, k.PortName = uint16(n), ""
		return nil
	}
	if !isLabel(text) || len(text) > 15 || !strings.ContainsFunc(text, func(r rune) bool { return 'a' <= r && r <= 'z' }) {
		return usage("write 8080, or the name of a container's port", "it is no port, and no name of one")
	}
	k.Port, k.PortName = 0, text
	return nil
}

func setPodReady(s *Settings, text string) error {
	is, err := strconv.ParseBool(text)
	if err != nil {
		return usage("write true or false", "it is neither")
	}
	s.Kubernetes.NotReady = !is
	return nil
}

func setFamily(s *Settings, text string) error {
	switch text = strings.ToLower(text); text {
	case "any", "ipv4", "ipv6":
		s.Kubernetes.Family = text
		return nil
	}
	return usage("write ipv4, ipv6 or any", "it is no family of addresses")
}
