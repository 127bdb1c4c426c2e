package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// The ConfigMap with upstreams and stub domains that kube-dns introduced, and its keys.
const (
	nameserverNamespace = "kube-system"
	nameserverName      = "kube-dns"
	stubDomainsKey      = "stubDomains"
	upstreamsKey        = "upstreamNameservers"
)

// nameserverKind watches that one ConfigMap; the agent's role permits no other.
func (s *Store) nameserverKind() kind {
	c := s.conn.Client.CoreV1().ConfigMaps(nameserverNamespace)
	return kind{name: "configmap kube-system/kube-dns", object: &corev1.ConfigMap{}, optional: true,
		fields: fields.OneTermEqualSelector("metadata.name", nameserverName).String(), list: lister(c.List), watch: c.Watch,
		put: s.putNameservers, drop: func(n model.ObjectName) {
			if n.Name == nameserverName {
				s.nameservers = nameservers{}
			}
		},
		replace: func(all []any) {
			if !slices.ContainsFunc(all, isNameservers) {
				s.nameservers = nameservers{}
			}
			for _, o := range all {
				s.putNameservers(o)
			}
		}}
}

// isNameservers reports whether an object is that ConfigMap. An API server that ignores the selector sends others, too.
func isNameservers(o any) bool {
	m, ok := o.(*corev1.ConfigMap)
	return ok && m.Namespace == nameserverNamespace && m.Name == nameserverName
}

// nameservers are the last valid ones, and the problem of a later invalid content.
type nameservers struct {
	good    *model.Nameservers
	problem string
}

// now returns the name servers to use; nil if the content is invalid and no valid one preceded it.
func (n nameservers) now() *model.Nameservers {
	if n.good == nil && n.problem == "" {
		return &model.Nameservers{}
	}
	return n.good
}

// putNameservers replaces the name servers, or keeps the previous ones if the content is invalid.
func (s *Store) putNameservers(o any) {
	if !isNameservers(o) {
		return
	}
	got, err := readNameservers(o.(*corev1.ConfigMap).Data)
	if err != nil {
		if err.Error() != s.nameservers.problem {
			s.log.Error("rejected invalid name servers in ConfigMap; keeping previous name servers", "object",
				nameserverNamespace+"/"+nameserverName, "err", err)
		}
		s.nameservers.problem = err.Error()
		return
	}
	s.nameservers = nameservers{good: &got}
}

func readNameservers(data map[string]string) (out model.Nameservers, err error) {
	if v := strings.TrimSpace(data[stubDomainsKey]); v != "" {
		var zones map[string][]string
		if err := json.Unmarshal([]byte(v), &zones); err != nil {
			return out, fmt.Errorf(`%s: %w; expected JSON such as {"corp.example": ["192.0.2.53"]}`, stubDomainsKey, err)
		}
		out.StubDomains = map[string][]string{}
		for zone, servers := range zones {
			name := strings.ToLower(strings.TrimSuffix(zone, "."))
			if len(name) > 253 || !zoneName.MatchString(name) {
				return out, fmt.Errorf("%s: %q is not a domain name", stubDomainsKey, zone)
			}
			if _, twice := out.StubDomains[name]; twice {
				return out, fmt.Errorf("%s: %q is listed twice", stubDomainsKey, zone)
			}
			if len(servers) == 0 {
				return out, fmt.Errorf("%s: %q has no servers", stubDomainsKey, zone)
			}
			if err := checkServers(stubDomainsKey, servers); err != nil {
				return out, err
			}
			out.StubDomains[name] = servers
		}
	}
	if v := strings.TrimSpace(data[upstreamsKey]); v != "" {
		if err := json.Unmarshal([]byte(v), &out.Upstreams); err != nil {
			return out, fmt.Errorf(`%s: %w; expected JSON such as ["192.0.2.53"]`, upstreamsKey, err)
		}
		if err := checkServers(upstreamsKey, out.Upstreams); err != nil {
			return out, err
		}
	}
	return out, nil
}

var zoneName = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9])?(\.[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9])?)*$`)

func checkServers(key string, servers []string) error {
	for _, x := range servers {
		ap, err := netip.ParseAddrPort(x)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(x); err == nil {
				ap = netip.AddrPortFrom(a, 53)
			}
		}
		if err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
			return fmt.Errorf("%s: %q is not a server's address or address:port", key, x)
		}
	}
	return nil
}
