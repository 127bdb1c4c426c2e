// Package objects reads, validates and converts the Kubernetes objects that warren serves: core/v1 Service and Endpoints,
// discovery/v1 EndpointSlice, networking.k8s.io/v1 ServiceCIDR, Ingress and IngressClass, Secrets of type kubernetes.io/tls, and
// warren's AddressPool. They are the same types whether they come from a file, from etcd or from an API server; the conversions
// return types of internal/model. The package owns nothing and does no input or output.
package objects

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// Object is a Kubernetes object with its metadata.
type Object interface {
	metav1.Object
}

// Kind is a kind of objects that warren stores.
type Kind struct {
	Name       string // "Service"
	Plural     string // "services": the key in etcd and the word on the command line
	Short      string
	APIVersion string
	Namespaced bool
	New        func() Object
}

// Kinds lists the kinds, in the order in which a file with all of them is applied.
var Kinds = []Kind{
	{"ServiceCIDR", "servicecidrs", "", "networking.k8s.io/v1", false, func() Object { return &networkingv1.ServiceCIDR{} }},
	{"AddressPool", "addresspools", "pool", "warren.dev/v1alpha1", false, func() Object { return &AddressPool{} }},
	{"Service", "services", "svc", "v1", true, func() Object { return &corev1.Service{} }},
	{"Endpoints", "endpoints", "ep", "v1", true, func() Object { return &HandEndpoints{} }},
	{"EndpointSlice", "endpointslices", "", "discovery.k8s.io/v1", true, func() Object { return &discoveryv1.EndpointSlice{} }},
	{"Secret", "secrets", "", "v1", true, func() Object { return &corev1.Secret{} }},
	{"IngressClass", "ingressclasses", "", "networking.k8s.io/v1", false, func() Object { return &networkingv1.IngressClass{} }},
	{"Ingress", "ingresses", "ing", "networking.k8s.io/v1", true, func() Object { return &networkingv1.Ingress{} }},
}

// KindNamed finds a kind by any of its names: Service, service, services, svc.
func KindNamed(name string) (Kind, error) {
	var known []string
	for _, k := range Kinds {
		if strings.EqualFold(name, k.Name) || strings.EqualFold(name, k.Plural) || name != "" && name == k.Short {
			return k, nil
		}
		known = append(known, k.Plural)
	}
	return Kind{}, kindError{fmt.Sprintf("kind %q is not supported; expected one of %s", name, strings.Join(known, ", "))}
}

// kindError is an error that is errKind.
type kindError struct{ text string }

// Error is the text.
func (e kindError) Error() string { return e.text }

// Is reports that the error is errKind.
func (e kindError) Is(target error) bool { return target == errKind }

// maxManifest bounds one document.
const maxManifest = 1 << 20

// Parse reads manifests: YAML documents or JSON, List objects included. Every problem of every document is in the error.
func Parse(r io.Reader, defaultNamespace string) ([]Object, error) {
	out, _, err := parse(r, defaultNamespace, func(error) bool { return false })
	if len(out) == 0 && err == nil {
		err = errors.New("no object found")
	}
	return out, err
}

// ParseKnown is Parse for manifests that may have objects of other kinds. It counts them.
func ParseKnown(r io.Reader, defaultNamespace string) (out []Object, others int, err error) {
	return parse(r, defaultNamespace, func(err error) bool { return errors.Is(err, errKind) })
}

// errKind reports a kind or a version that is not supported.
var errKind = errors.New("not supported")

func parse(r io.Reader, defaultNamespace string, ignore func(error) bool) (out []Object, ignored int, err error) {
	var errs []error
	docs := yaml.NewYAMLReader(bufReader(r))
	for n := 1; ; n++ {
		raw, err := docs.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("document %d: %w", n, err)
		}
		if len(bytes.TrimSpace(raw)) == 0 {
			continue
		}
		objs, more, err := parseDocument(raw, ignore)
		ignored += more
		if err != nil {
			errs = append(errs, fmt.Errorf("document %d: %w", n, err))
		}
		for _, o := range objs {
			if k, err := KindOf(o); err == nil && k.Namespaced && o.GetNamespace() == "" {
				o.SetNamespace(defaultNamespace)
			}
			out = append(out, o)
		}
	}
	return out, ignored, errors.Join(errs...)
}

func parseDocument(raw []byte, ignore func(error) bool) (out []Object, ignored int, err error) {
	if len(raw) > maxManifest {
		return nil, 0, fmt.Errorf("%d bytes are more than the %d an object may have", len(raw), maxManifest)
	}
	js, err := sigsyaml.YAMLToJSONStrict(raw)
	if err != nil {
		return nil, 0, err
	}
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(js, &head); err != nil {
		return nil, 0, err
	}
	if head.Kind == "List" {
		var errs []error
		for i, item := range head.Items {
			objs, more, err := parseDocument(item, ignore)
			ignored += more
			if err != nil {
				errs = append(errs, fmt.Errorf("items[%d]: %w", i, err))
			}
			out = append(out, objs...)
		}
		return out, ignored, errors.Join(errs...)
	}
	if string(bytes.TrimSpace(js)) == "null" {
		return nil, 0, nil
	}
	o, err := Decode(head.APIVersion, head.Kind, js)
	switch {
	case err != nil && ignore(err):
		return nil, 1, nil
	case err != nil:
		return nil, 0, err
	}
	return []Object{o}, 0, nil
}

// Decode reads the JSON of one object strictly: unknown and repeated fields are errors.
func Decode(apiVersion, kind string, js []byte) (Object, error) {
	if kind == "" {
		return nil, errors.New("kind: is empty")
	}
	for _, k := range Kinds {
		if k.Name != kind {
			continue
		}
		if apiVersion != k.APIVersion {
			return nil, kindError{fmt.Sprintf("%s: apiVersion: %q, expected %q", kind, apiVersion, k.APIVersion)}
		}
		o := k.New()
		dec := json.NewDecoder(bytes.NewReader(js))
		dec.DisallowUnknownFields()
		if err := dec.Decode(o); err != nil {
			return nil, fmt.Errorf("%s: %s", kind, strings.TrimPrefix(err.Error(), "json: "))
		}
		return o, nil
	}
	_, err := KindNamed(kind)
	return nil, err
}

// KindOf returns the kind of an object.
func KindOf(o Object) (Kind, error) {
	for _, k := range Kinds {
		if fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", o) {
			return k, nil
		}
	}
	return Kind{}, fmt.Errorf("%T is no kind that warren keeps", o)
}

// Encode writes an object's JSON with its kind.
func Encode(o Object) ([]byte, error) {
	k, err := KindOf(o)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	m["apiVersion"], m["kind"] = k.APIVersion, k.Name
	return json.Marshal(m)
}
