// Package localpods describes the Pods that are attached to this node: their names, labels and readiness.
//
// It owns the readiness probes of this node's Pods and their goroutines. The records of the attachments belong to the address pool;
// this package edits only their labels and probes. On Kubernetes the API server has labels and readiness, and nothing is changed or
// probed here.
package localpods

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/warrennet/warren/agent/probe"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/objects"
	"github.com/warrennet/warren/ipam"
)

// Errors of changes.
var (
	ErrKubernetes = errors.New("on Kubernetes the API server has the Pods' labels and readiness: use kubectl")
	ErrTooMany    = fmt.Errorf("%d Pods of this node are probed already", maxProbes)
)

// UnknownError is a change of a Pod that is not on this node.
type UnknownError struct{ Pod string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("no Pod %q on this node (`warren pod list` shows NAMESPACE/NAME of its Pods)", e.Pod)
}

// InvalidError is a change with invalid content.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }

// maxProbes bounds the probed Pods of a node: each has a goroutine and from time to time a socket.
const maxProbes = 1000

// Config is what Pods works with.
type Config struct {
	Node, Zone string
	Kubernetes bool
	// Records returns the records of the attached Pods, and Edit changes one.
	Records func() []ipam.Record
	Edit    func(a api.Attachment, edit func(*ipam.Record)) (ipam.Record, error)
	// Snapshot returns the newest snapshot, nil before the first.
	Snapshot func() *model.Snapshot
	// Changed is called after a Pod's readiness or labels changed; it must not block.
	Changed func()
}

// Pods is the Pods of this node.
type Pods struct {
	cfg    Config
	probes *probe.Prober
	update sync.Mutex // one Update at a time
}

// New starts nothing.
func New(c Config) *Pods { return &Pods{cfg: c, probes: probe.New(c.Changed)} }

// Run probes Pods until ctx ends.
func (p *Pods) Run(ctx context.Context) {
	if !p.cfg.Kubernetes {
		p.probes.Run(ctx)
	}
}

// Update probes the Pods whose records have a probe now. It is called after Pods were attached, detached or changed.
func (p *Pods) Update() {
	if p.cfg.Kubernetes {
		return
	}
	p.update.Lock()
	defer p.update.Unlock()
	var want []probe.Target
	for _, r := range p.cfg.Records() {
		if r.Probe == nil || len(r.Addresses) == 0 || probe.Check(*r.Probe) != nil {
			continue
		}
		want = append(want, probe.Target{ID: r.Attachment, Addr: r.Addresses[0], Probe: *r.Probe, Ready: p.wasReady(r)})
	}
	p.probes.Set(want[:min(len(want), maxProbes)])
}

// wasReady is the readiness of a Pod in the snapshot, which may come from the disk.
func (p *Pods) wasReady(r ipam.Record) bool {
	if s := p.cfg.Snapshot(); s != nil {
		for _, x := range s.Pods {
			if x.ObjectName == nameOf(r) && x.UID == r.PodUID && x.Node == p.cfg.Node {
				return x.Ready
			}
		}
	}
	return true
}

// Attached returns the Pods as their records in the store should be, by name.
func (p *Pods) Attached() map[model.ObjectName]model.Pod {
	out := map[model.ObjectName]model.Pod{}
	for _, r := range p.cfg.Records() {
		x := p.podOf(r)
		x.Node, x.Zone = p.cfg.Node, p.cfg.Zone
		out[x.ObjectName] = x
	}
	return out
}

// podOf has neither Node nor Zone. A Pod without a probe is ready.
func (p *Pods) podOf(r ipam.Record) model.Pod {
	res, probed := p.probes.Result(r.Attachment)
	return model.Pod{ObjectName: nameOf(r), UID: r.PodUID, Addrs: r.Addresses, Ready: !probed || res.Ready, Labels: r.Labels,
		HostPorts: HostPorts(r.PortMappings), Created: r.Created}
}

// HostPorts converts the port mappings of CNI ADD.
func HostPorts(list []api.PortMapping) (out []model.HostPort) {
	protocols := map[string]model.Protocol{"tcp": model.TCP, "udp": model.UDP, "sctp": model.SCTP}
	for _, m := range list {
		out = append(out, model.HostPort{Protocol: protocols[m.Protocol], HostPort: m.HostPort, ContainerPort: m.ContainerPort,
			HostIP: m.HostIP})
	}
	return out
}

// nameOf names a Pod as its runtime does. A Pod without a name gets one from its container.
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

// List describes all Pods.
func (p *Pods) List() []api.Pod {
	out := []api.Pod{}
	for _, r := range p.cfg.Records() {
		out = append(out, p.describe(r))
	}
	return out
}

// describe has labels and readiness as Services use them: on Kubernetes those of the API server.
func (p *Pods) describe(r ipam.Record) api.Pod {
	x := p.podOf(r)
	if p.cfg.Kubernetes {
		x.Ready = false
		if s := p.cfg.Snapshot(); s != nil {
			for _, have := range s.Pods {
				if have.ObjectName == x.ObjectName && have.UID == x.UID {
					x.Ready, x.Labels = have.Ready, have.Labels
				}
			}
		}
	}
	probed, _ := p.probes.Result(r.Attachment)
	return api.Pod{Attachment: r.Attachment, Namespace: x.Namespace, Name: x.Name, UID: r.PodUID,
		Addresses: r.Addresses, Link: r.HostIfName, Labels: x.Labels, Ready: x.Ready, Probe: r.Probe, ProbeError: probed.Error}
}

// ChangeLabels sets and removes labels of a Pod and returns the result.
func (p *Pods) ChangeLabels(q api.PodLabels) (api.Pod, error) {
	if p.cfg.Kubernetes {
		return api.Pod{}, ErrKubernetes
	}
	if err := checkLabels(q); err != nil {
		return api.Pod{}, &InvalidError{err}
	}
	return p.change(q.Pod, func(r *ipam.Record) {
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

// ChangeProbe sets or removes the readiness probe of a Pod and returns the result.
func (p *Pods) ChangeProbe(q api.PodProbe) (api.Pod, error) {
	if p.cfg.Kubernetes {
		return api.Pod{}, ErrKubernetes
	}
	if q.Probe != nil {
		if err := probe.Check(*q.Probe); err != nil {
			return api.Pod{}, &InvalidError{err}
		}
		if p.otherProbes(q.Pod) >= maxProbes {
			return api.Pod{}, ErrTooMany
		}
	}
	return p.change(q.Pod, func(r *ipam.Record) { r.Probe = q.Probe })
}

// otherProbes counts the records of other Pods with a probe.
func (p *Pods) otherProbes(name string) (n int) {
	for _, r := range p.cfg.Records() {
		if r.Probe != nil && nameOf(r).String() != name {
			n++
		}
	}
	return n
}

// change edits the records of a Pod, one per interface, and returns the Pod as it is now.
func (p *Pods) change(name string, edit func(*ipam.Record)) (api.Pod, error) {
	var last *ipam.Record
	for _, r := range p.cfg.Records() {
		if nameOf(r).String() != name {
			continue
		}
		now, err := p.cfg.Edit(r.Attachment, edit)
		if err != nil {
			return api.Pod{}, err
		}
		last = &now
	}
	if last == nil {
		return api.Pod{}, &UnknownError{name}
	}
	p.Update()
	p.cfg.Changed()
	return p.describe(*last), nil
}
