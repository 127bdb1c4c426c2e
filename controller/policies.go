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
