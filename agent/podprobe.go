package agent

import (
	"fmt"
	"net/http"

	"github.com/warrennet/warren/agent/probe"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/ipam"
)

// maxProbes bounds the Pods of a node that are probed: each has a goroutine and, now and then, a socket.
const maxProbes = 1000

// ready says whether a Pod is to get traffic; one without a probe always is.
func (a *Agent) ready(r ipam.Record) bool {
	res, probed := a.probes.Result(r.Attachment)
	return !probed || res.Ready
}

// setProbes has those Pods probed whose records say so.
func (a *Agent) setProbes() {
	if a.kube != nil {
		return // the API server knows who is ready
	}
	a.probing.Lock()
	defer a.probing.Unlock()
	var want []probe.Target
	for _, r := range a.plug.Pods() {
		if r.Probe == nil || len(r.Addresses) == 0 || probe.Check(*r.Probe) != nil {
			continue
		}
		want = append(want, probe.Target{ID: r.Attachment, Addr: r.Addresses[0], Probe: *r.Probe, Ready: a.wasReady(r)})
	}
	a.probes.Set(want[:min(len(want), maxProbes)])
}

// wasReady is how the store, or what the node kept of it, has the Pod.
func (a *Agent) wasReady(r ipam.Record) bool {
	if s := a.source.Load(); s != nil {
		for _, p := range s.Pods {
			if p.ObjectName == nameOf(r) && p.UID == r.PodUID && p.Node == a.cfg.NodeName {
				return p.Ready
			}
		}
	}
	return true
}

func (a *Agent) probePod(w http.ResponseWriter, r *http.Request) {
	var q api.PodProbe
	if !a.readPodCall(w, r, &q) {
		return
	}
	if q.Probe != nil {
		if err := probe.Check(*q.Probe); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		if a.probedBeside(q.Pod) >= maxProbes {
			refuse(w, http.StatusConflict, fmt.Errorf("%d Pods of this node are probed already", maxProbes))
			return
		}
	}
	a.changePod(w, q.Pod, func(r *ipam.Record) { r.Probe = q.Probe })
}

// probedBeside counts the records with a probe that are not this Pod's.
func (a *Agent) probedBeside(name string) (n int) {
	for _, r := range a.plug.Pods() {
		if r.Probe != nil && nameOf(r).String() != name {
			n++
		}
	}
	return n
}
