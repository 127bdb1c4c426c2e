package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// written is a Service as this process wrote it last, until the watch delivers that version.
type written struct{ from, to *corev1.Service }

// assignAddresses assigns addresses of the pools to Services of type LoadBalancer. Without a pool it changes nothing:
// another controller may do this work.
func (k *controller) assignAddresses(ctx context.Context, v view, f clusterFile) error {
	pools, problems := planPools(v, f)
	k.reportPools(v, problems)
	if len(pools) == 0 {
		return nil
	}
	grants, taken := planAddresses(k.latest(v.allServices), pools, k.taken)
	k.taken = taken
	var errs []error
	waiting := map[string]bool{}
	for i := range grants {
		g := &grants[i]
		topic := lbTopic + string(g.service.UID)
		if len(g.pending) > 0 {
			waiting[topic] = true
		}
		if g.writes() {
			if err := k.writeAddresses(ctx, g, pools); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if why := strings.Join(g.pending, "; "); why != "" &&
			k.logOnce(topic, slog.LevelInfo, "Service lacks a load balancer address", "service",
				g.service.Namespace+"/"+g.service.Name, "reason", why) {
			k.events.Event(g.service, corev1.EventTypeWarning, "NoAddress", why)
		}
	}
	k.forgetOthers(lbTopic, waiting)
	return errors.Join(append(errs, k.countAddresses(ctx, v, pools, taken))...)
}

const lbTopic = "load balancer "

// latest are the Services of type LoadBalancer in their newest version: that of the watch, or the one that this process has
// written since, so that no address is assigned twice.
func (k *controller) latest(services []*corev1.Service) (out []*corev1.Service) {
	known := map[types.UID]written{}
	for _, s := range services {
		w, ok := k.wrote[s.UID]
		if ok && (w.from == s || s.ResourceVersion != "" && s.ResourceVersion == w.from.ResourceVersion) {
			known[s.UID] = w
			s = w.to
		}
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			out = append(out, s)
		}
	}
	k.wrote = known
	return out
}

// writeAddresses writes a Service's status and the annotation that lists warren's addresses in one patch. The patch has the
// resource version of the planned Service. If that is outdated nothing is written, and the watch triggers another pass.
func (k *controller) writeAddresses(ctx context.Context, g *grant, pools []model.AddressPool) error {
	s := g.service
	mode := corev1.LoadBalancerIPModeVIP
	var ingress []corev1.LoadBalancerIngress
	for _, a := range g.addrs {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	var note any // null removes it
	if len(g.addrs) > 0 {
		note = lbpool.Record(g.addrs)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.UID, "resourceVersion": s.ResourceVersion,
			"annotations": map[string]any{lbpool.RecordAnnotation: note}},
		"status": map[string]any{"loadBalancer": map[string]any{"ingress": ingress}},
	})
	if err != nil {
		return err
	}
	now, err := k.Client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the addresses of Service %s/%s: %w", s.Namespace, s.Name, err)
	}
	base := s
	if w, ok := k.wrote[s.UID]; ok {
		base = w.from // s is a version that this process wrote
	}
	k.wrote[s.UID] = written{base, now}
	if !slices.Equal(g.has, g.addrs) {
		k.Log.Info("assigned load balancer addresses", "service", s.Namespace+"/"+s.Name, "addresses", g.addrs, "old", g.has)
		k.announceGrant(g, pools)
	}
	return nil
}

// announceGrant reports the assignment in an Event.
func (k *controller) announceGrant(g *grant, pools []model.AddressPool) {
	var what []string
	for _, a := range g.addrs {
		if p := lbpool.Pool(pools, a); p != nil {
			what = append(what, fmt.Sprintf("%s of pool %s", a, p.Name))
		} else {
			what = append(what, a.String())
		}
	}
	if len(what) > 0 {
		k.events.Event(g.service, corev1.EventTypeNormal, "AddressAssigned", strings.Join(what, ", "))
	} else {
		k.events.Eventf(g.service, corev1.EventTypeNormal, "AddressReleased", "%s", lbpool.Record(g.has))
	}
}
