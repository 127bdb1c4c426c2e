package controller

import (
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
)

const notEnforced = "warren does not enforce NetworkPolicy: this policy has no effect, all traffic is allowed"

// reportPolicies says of every NetworkPolicy that it is not enforced: once, and again when it changes.
func (k *controller) reportPolicies(v view) error {
	const topic = "policy "
	there := map[string]bool{}
	for _, p := range v.policies {
		key := topic + string(p.UID)
		there[key] = true
		if k.say(key, slog.LevelWarn, fmt.Sprintf("NetworkPolicy %s/%s (generation %d) is not enforced", p.Namespace, p.Name, p.Generation)) {
			k.events.Event(p, corev1.EventTypeWarning, "NotEnforced", notEnforced)
		}
	}
	k.forgetOthers(topic, there)
	return nil
}

// IngressClass is the class of Ingresses that warren will serve.
const IngressClass = "warren"

const notServed = "warren does not serve Ingresses yet: this one has no effect"

// reportIngresses says of every Ingress of our class that it is not served yet; others are somebody else's.
func (k *controller) reportIngresses(v view) error {
	const topic = "ingress "
	there := map[string]bool{}
	for _, i := range v.ingresses {
		if i.Spec.IngressClassName == nil || *i.Spec.IngressClassName != IngressClass {
			continue
		}
		key := topic + string(i.UID)
		there[key] = true
		if k.say(key, slog.LevelWarn, fmt.Sprintf("Ingress %s/%s is not served", i.Namespace, i.Name)) {
			k.events.Event(i, corev1.EventTypeWarning, "NotServed", notServed)
		}
	}
	k.forgetOthers(topic, there)
	return nil
}
