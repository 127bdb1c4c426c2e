package controller

import (
	"log/slog"
	"net/netip"
	"strings"

	"github.com/warrennet/warren/internal/netx"
	corev1 "k8s.io/api/core/v1"
)

// reportExternalIPs reports once for each Service, and again after a change, the externalIPs that the operator does not permit. The
// agents ignore them.
func (k *controller) reportExternalIPs(v view, op operator) error {
	const topic = "external "
	wrong := map[string]bool{}
	for _, s := range v.allServices {
		refused := refusedExternalIPs(s, op.externalIPs)
		if len(refused) == 0 {
			continue
		}
		key := topic + string(s.UID)
		wrong[key] = true
		why := "externalIPs " + strings.Join(refused, ", ") + " are ignored: the setting service.externalIPs in ConfigMap " +
			OperatorConfig + " does not permit them"
		if k.logOnce(key, slog.LevelWarn, "externalIPs of a Service are not permitted", "service", s.Namespace+"/"+s.Name, "reason", why) {
			k.events.Event(s, corev1.EventTypeWarning, "ExternalIPsRefused", why)
		}
	}
	k.forgetOthers(topic, wrong)
	return nil
}

func refusedExternalIPs(s *corev1.Service, permitted []netip.Prefix) (out []string) {
	for _, text := range s.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(text); err != nil || !netx.Contains(permitted, a.Unmap()) {
			out = append(out, text)
		}
	}
	return out
}
