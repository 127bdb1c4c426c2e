package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	"github.com/warrennet/warren/ipam"
)

// podList is this node's Pods by the names that the cluster knows them by.
func (a *Agent) podList() []api.Pod {
	out := []api.Pod{}
	for _, r := range a.plug.Pods() {
		out = append(out, a.describePod(r))
	}
	return out
}

// describePod tells labels and readiness as Services see them: on Kubernetes, as the API server has them.
func (a *Agent) describePod(r ipam.Record) api.Pod {
	p := a.podOf(r)
	if a.kube != nil {
		p.Ready = false
		if s := a.source.Load(); s != nil {
			for _, have := range s.Pods {
				if have.ObjectName == p.ObjectName && have.UID == p.UID {
					p.Ready, p.Labels = have.Ready, have.Labels
				}
			}
		}
	}
	probed, _ := a.probes.Result(r.Attachment)
	return api.Pod{Attachment: r.Attachment, Namespace: p.Namespace, Name: p.Name, UID: r.PodUID,
		Addresses: r.Addresses, Link: r.HostIfName, Labels: p.Labels, Ready: p.Ready, Probe: r.Probe, ProbeError: probed.Error}
}

// podRecords are the records of a Pod of this node, one per interface.
func (a *Agent) podRecords(name string) (out []ipam.Record) {
	for _, r := range a.plug.Pods() {
		if nameOf(r).String() == name {
			out = append(out, r)
		}
	}
	return out
}

// errOnKubernetes is why a Pod is not changed here.
var errOnKubernetes = errors.New("on Kubernetes the API server has the Pods' labels and readiness: use kubectl")

func (a *Agent) labelPod(w http.ResponseWriter, r *http.Request) {
	var q api.PodLabels
	if !a.readPodCall(w, r, &q) {
		return
	}
	if err := checkLabels(q); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	a.changePod(w, q.Pod, func(r *ipam.Record) {
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		for _, k := range q.Remove {
			delete(r.Labels, k)
		}
		maps.Copy(r.Labels, q.Set)
	})
}

func checkLabels(q api.PodLabels) error {
	for _, k := range q.Remove {
		if _, both := q.Set[k]; both {
			return fmt.Errorf("label %q: cannot be set and removed at once", k)
		}
	}
	return objects.ValidateLabels(q.Set)
}

// readPodCall reads a call that changes a Pod; it answers and returns false when there is nothing to be done.
func (a *Agent) readPodCall(w http.ResponseWriter, r *http.Request, into any) bool {
	if a.kube != nil {
		refuse(w, http.StatusConflict, errOnKubernetes)
		return false
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("cannot read the request: %w", err))
		return false
	}
	return true
}

// changePod edits the records of a Pod, has them published and answers with the Pod as it is now.
func (a *Agent) changePod(w http.ResponseWriter, name string, edit func(*ipam.Record)) {
	records := a.podRecords(name)
	if len(records) == 0 {
		refuse(w, http.StatusNotFound, fmt.Errorf("no Pod %q on this node (`warren pod list` shows NAMESPACE/NAME of its Pods)", name))
		return
	}
	var now ipam.Record
	for _, r := range records {
		var err error
		if now, err = a.pool.Change(r.Attachment, edit); err != nil {
			refuse(w, http.StatusInternalServerError, err)
			return
		}
	}
	a.podsChanged()
	reply(w, a.describePod(now))
}

// nameOf names a Pod as its runtime did; one without a name gets that of its container.
func nameOf(r ipam.Record) model.ObjectName {
	n := model.ObjectName{Namespace: r.PodNamespace, Name: r.PodName}
	if n.Namespace == "" {
		n.Namespace = "default"
	}
	if n.Name == "" {
		n.Name = "container-" + r.ContainerID[:min(12, len(r.ContainerID))]
	}
	return n
}
