package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/warrennet/warren/ingress/route"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The Service in front of the ingress Pods (deploy/kubeadm/ingress.yaml). Its addresses are those of all Ingresses of warren's classes.
const (
	IngressNamespace = "warren-ingress"
	IngressService   = "warren-ingress"
)

const notServed = "no ingress of warren is installed, so that this Ingress has no effect: kubectl apply -f deploy/kubeadm/ingress.yaml"

// serveIngresses writes the addresses of the ingress to the status of the Ingresses of warren's classes, and reports their problems
// in Events. The status of Ingresses of other controllers is never changed.
func (k *controller) serveIngresses(ctx context.Context, v view) error {
	const topic = "ingress "
	in, classes := ingressObjects(v)
	installed, addresses := ingressAddresses(v)
	topics := map[string]bool{}
	var errs []error
	for i, x := range v.ingresses {
		ours := classes.Serves(in.Ingresses[i])
		if want, write := ingressStatus(x, ours, foreignClass(v, in.Ingresses[i]), addresses); write {
			errs = append(errs, k.writeIngress(ctx, x, want))
		}
		if ours && !installed {
			key := topic + string(x.UID)
			topics[key] = true
			if k.logOnce(key, slog.LevelWarn, "Ingress is not served", "object", x.Namespace+"/"+x.Name, "reason", notServed) {
				k.events.Event(x, corev1.EventTypeWarning, "NotServed", notServed)
			}
		}
	}
	k.reportIngressProblems(v, in, topic, topics)
	k.forgetOthers(topic, topics)
	return errors.Join(errs...)
}

// ingressObjects converts what problems can be found in without endpoints and Secrets.
func ingressObjects(v view) (*model.IngressObjects, route.Classes) {
	in := &model.IngressObjects{}
	for _, x := range v.ingresses {
		in.Ingresses = append(in.Ingresses, objects.Ingress(x))
	}
	for _, c := range v.classes {
		in.Classes = append(in.Classes, objects.IngressClass(c))
	}
	for _, s := range v.allServices {
		m := objects.Service(s)
		in.Services = append(in.Services, &m)
	}
	return in, route.NewClasses(in.Classes, false)
}

// reportIngressProblems makes one Event for each problem that does not depend on what the controller does not watch: endpoints,
// Secrets, and the hosts that the flags of the ingress permit several namespaces.
func (k *controller) reportIngressProblems(v view, in *model.IngressObjects, topic string, topics map[string]bool) {
	by := map[model.ObjectName]*networkingv1.Ingress{}
	for _, x := range v.ingresses {
		by[model.ObjectName{Namespace: x.Namespace, Name: x.Name}] = x
	}
	for _, p := range route.New(route.Config{SharedHosts: []string{"*"}}).Compile(in).Problems {
		x := by[p.Object]
		if p.Kind != "Ingress" || x == nil || p.Reason == route.EndpointsMissing || p.Reason == route.SecretNotFound {
			continue
		}
		text := p.Field + ": " + p.Message
		key := topic + string(x.UID) + " " + text
		topics[key] = true
		if k.logOnce(key, slog.LevelWarn, "Ingress has a problem", "object", x.Namespace+"/"+x.Name, "problem", text) {
			k.events.Event(x, corev1.EventTypeWarning, string(p.Reason), text)
		}
	}
}

// ingressAddresses are the addresses of the Service in front of the ingress Pods, and whether it exists.
func ingressAddresses(v view) (installed bool, out []networkingv1.IngressLoadBalancerIngress) {
	for _, s := range v.allServices {
		if s.Namespace != IngressNamespace || s.Name != IngressService {
			continue
		}
		for _, a := range s.Status.LoadBalancer.Ingress {
			out = append(out, networkingv1.IngressLoadBalancerIngress{IP: a.IP, Hostname: a.Hostname})
		}
		return true, out
	}
	return false, nil
}

// foreignClass reports whether an Ingress has a class that exists and belongs to another controller.
func foreignClass(v view, in *model.Ingress) bool {
	name := cmp.Or(in.Class, in.ClassAnnotation)
	return slices.ContainsFunc(v.classes, func(c *networkingv1.IngressClass) bool {
		return c.Name == name && c.Spec.Controller != route.Controller
	})
}

// ingressStatus is the status that an Ingress should have, and whether it must be written. An Ingress that is no longer warren's loses
// warren's addresses, unless another controller serves it.
func ingressStatus(x *networkingv1.Ingress, ours, foreign bool, addresses []networkingv1.IngressLoadBalancerIngress) (
	want []networkingv1.IngressLoadBalancerIngress, write bool) {
	have := x.Status.LoadBalancer.Ingress
	same := slices.EqualFunc(have, addresses, func(a, b networkingv1.IngressLoadBalancerIngress) bool {
		return a.IP == b.IP && a.Hostname == b.Hostname
	})
	if ours {
		return addresses, !same
	}
	return nil, same && len(have) > 0 && !foreign
}

// writeIngress writes the addresses of one Ingress. An outdated version is not written: the watch triggers another pass.
func (k *controller) writeIngress(ctx context.Context, x *networkingv1.Ingress, want []networkingv1.IngressLoadBalancerIngress) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": x.UID, "resourceVersion": x.ResourceVersion},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": want}},
	})
	if err != nil {
		return err
	}
	_, err = k.Client.NetworkingV1().Ingresses(x.Namespace).Patch(ctx, x.Name, types.MergePatchType, patch, metav1.PatchOptions{},
		"status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the addresses of Ingress %s/%s: %w", x.Namespace, x.Name, err)
	}
	var list []string
	for _, a := range want {
		list = append(list, cmp.Or(a.IP, a.Hostname))
	}
	k.Log.Info("wrote the addresses of an Ingress", "object", x.Namespace+"/"+x.Name, "addresses", list)
	return nil
}
