package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// operator has the settings of config.yaml in ConfigMap warren-config that the controller uses. Nil means unset; an empty
// list was set to empty.
type operator struct {
	podCIDRs, serviceCIDRs []netip.Prefix
	domain                 string
	dnsAddresses           []netip.Addr
	dnsGiven               bool
	etcdEndpoints          []string
	servers                []string
	externalIPs            []netip.Prefix // permitted
}

const operatorKey = "config.yaml"

// operatorComment is the content of config.yaml until an operator changes it.
const operatorComment = `# Settings of warren's agents on all nodes; "warren agent --help" lists the keys.
# They take precedence over the settings that the controller detects (ConfigMap warren-cluster). warren never changes this file.
`

func parseOperator(cm *corev1.ConfigMap) (op operator, err error) {
	if cm == nil {
		return op, nil
	}
	top, err := parseSettings([]byte(cm.Data[operatorKey]))
	if err != nil {
		return op, fmt.Errorf("ConfigMap %s, %s: %w", OperatorConfig, operatorKey, err)
	}
	var errs []error
	bad := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("ConfigMap %s, %s, %s: %w", OperatorConfig, operatorKey, key, err))
		}
	}
	op.podCIDRs, err = parseAll(setting(top, "podCIDRs"), netip.ParsePrefix)
	bad("podCIDRs", err)
	op.serviceCIDRs, err = parseAll(setting(top, "serviceCIDRs"), netip.ParsePrefix)
	bad("serviceCIDRs", err)
	dns := setting(top, "dns.addresses")
	op.dnsGiven = dns != nil
	op.dnsAddresses, err = parseAll(dns, netip.ParseAddr)
	bad("dns.addresses", err)
	op.etcdEndpoints, op.servers = setting(top, "etcd.endpoints"), setting(top, "kubernetes.servers")
	op.externalIPs, err = parseAll(setting(top, "service.externalIPs"), netip.ParsePrefix)
	bad("service.externalIPs", err)
	if d := setting(top, "domain"); len(d) > 0 {
		op.domain = d[0]
	}
	return op, errors.Join(errs...)
}

func parseSettings(text []byte) (map[string]any, error) {
	js, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	var top map[string]any
	if err := json.Unmarshal(js, &top); err != nil {
		return nil, fmt.Errorf("expected a mapping of settings: %w", err)
	}
	return top, nil
}

// Servers are the API servers that a config.yaml or cluster.yaml names.
func Servers(text []byte) ([]string, error) {
	top, err := parseSettings(text)
	if err != nil {
		return nil, err
	}
	return setting(top, "kubernetes.servers"), nil
}

// setting finds a dotted key in nested mappings, as the agent does: a list, or one string with commas.
func setting(m map[string]any, key string) []string {
	v, ok := m[key]
	if !ok {
		head, rest, nested := strings.Cut(key, ".")
		sub, isMap := m[head].(map[string]any)
		if !nested || !isMap {
			return nil
		}
		return setting(sub, rest)
	}
	out := []string{}
	switch v := v.(type) {
	case nil:
	case []any:
		for _, x := range v {
			out = append(out, fmt.Sprint(x))
		}
	default:
		for _, f := range strings.Split(fmt.Sprint(v), ",") {
			if f = strings.TrimSpace(f); f != "" {
				out = append(out, f)
			}
		}
	}
	return out
}

func parseAll[T any](in []string, parse func(string) (T, error)) (out []T, err error) {
	for _, s := range in {
		x, err := parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// ensureOperatorConfig creates an empty config.yaml if there is none: the agents' Pods mount it. It is not part of the
// manifest, because applying the next version of the manifest would overwrite the operator's settings.
func (k *controller) ensureOperatorConfig(ctx context.Context, v view) error {
	if v.operator != nil {
		return nil
	}
	_, err := k.Client.CoreV1().ConfigMaps(k.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: OperatorConfig, Namespace: k.Namespace, Labels: labels("config")},
		Data:       map[string]string{operatorKey: operatorComment},
	}, metav1.CreateOptions{})
	return ignoreExisting(err, "create ConfigMap "+OperatorConfig)
}

// ignoreExisting returns nil if the object exists: another process has created it, and the watch will report it.
func ignoreExisting(err error, act string) error {
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}

func labels(component string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "warren", "app.kubernetes.io/component": component,
		"app.kubernetes.io/managed-by": ManagedBy}
}
