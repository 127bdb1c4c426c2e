package controller

import (
	"log/slog"

	corev1 "k8s.io/api/core/v1"
)

const notEnforced = "warren does not enforce NetworkPolicy: this policy has no effect, all traffic is allowed"

// reportPolicies reports once for every generation of a NetworkPolicy that it is not enforced.
func (k *controller) reportPolicies(v view) error {
	const topic = "policy "
	there := map[string]bool{}
	for _, p := range v.policies {
		key := topic + string(p.UID)
		there[key] = true
		if k.logOnce(key, slog.LevelWarn, "NetworkPolicy is not enforced", "object", p.Namespace+"/"+p.Name, "version", p.Generation) {
			k.events.Event(p, corev1.EventTypeWarning, "NotEnforced", notEnforced)
		}
	}
	k.forgetOthers(topic, there)
	return nil
}

// IngressClass is the class of Ingresses that warren will serve.
const IngressClass = "warren"

const notServed = "warren does not serve Ingresses yet: this one has no effect"

// reportIngresses reports once for every Ingress of warren's class that it is not served yet.
func (k *controller) reportIngresses(v view) error {
	const topic = "ingress "
	there := map[string]bool{}
	for _, i := range v.ingresses {
		if i.Spec.IngressClassName == nil || *i.Spec.IngressClassName != IngressClass {
			continue
		}
		key := topic + string(i.UID)
		there[key] = true
		if k.logOnce(key, slog.LevelWarn, "Ingress is not served", "object", i.Namespace+"/"+i.Name) {
			k.events.Event(i, corev1.EventTypeWarning, "NotServed", notServed)
		}
	}
	k.forgetOthers(topic, there)
	return nil
}
