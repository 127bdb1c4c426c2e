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
