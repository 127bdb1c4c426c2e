package agent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"sync/atomic"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/ipam"
	"github.com/warrennet/warren/servicelb/offload"
)

// offloadFlows is how many flows are offloaded at most; the agent forwards further ones.
const offloadFlows = 1 << 15

// offloader is the eBPF program that forwards flows between Pods of this node, and why there is none.
type offloader struct {
	program *offload.Program // nil: the kernel has none, or it is disabled
	reason  atomic.Value     // string: why program is nil; absent before open
}

// openOffload loads the program. Without it everything works, and Services with backends on the client's node are slower.
func (a *Agent) openOffload() {
	if !a.cfg.Offload {
		a.offload.reason.Store("disabled by the setting offload")
		return
	}
	program, err := offload.New(offloadFlows, a.log)
	if err != nil {
		a.offload.reason.Store(err.Error())
		a.log.Info("eBPF offload unavailable; forwarding same-node Service traffic in userspace", "err", err)
		return
	}
	a.offload.program = program
	a.offload.reason.Store("")
}

// state is how the status shows it.
func (o *offloader) state() string {
	switch reason, known := o.reason.Load().(string); {
	case !known:
		return "starting"
	case reason != "":
		return reason
	}
	return "active"
}

func (o *offloader) close() {
	if o.program != nil {
		_ = o.program.Close()
		o.program = nil
	}
}

// offloadPods attaches the program to the Pods' interfaces.
type offloadPods struct {
	records []ipam.Record              // that links was read for
	links   map[string]plan.PodLink    // as last read
	pods    map[netip.Addr]offload.Pod // as last set
	failed  bool                       // to attach the program to all of them
	err     string                     // the last one that was logged
}

// observe reads the Pods' interfaces when they may have changed. After a failure the last ones stay until the next look.
func (o *offloadPods) observe(a *Agent, look bool) {
	if a.offload.program == nil {
		return
	}
	records := a.plug.Pods()
	if !look && reflect.DeepEqual(records, o.records) {
		return
	}
	links, err := podLinks(records)
	if err != nil {
		o.log(a, err)
		return
	}
	o.records, o.links = records, links
}

// set attaches the program and tells the load balancer which Pods it may offload.
func (o *offloadPods) set(a *Agent, want plan.Offload, look bool) {
	if a.offload.program == nil || maps.Equal(want.Pods, o.pods) && !(o.failed && look) {
		return
	}
	err := a.offload.program.Attach(want.Links)
	o.log(a, err)
	o.pods, o.failed = want.Pods, err != nil // a failure is retried at the next look
	a.lb.SetPods(want.Pods)
}

// log logs a failure once.
func (o *offloadPods) log(a *Agent, err error) {
	if err == nil {
		o.err = ""
		return
	}
	if o.err != err.Error() {
		o.err = err.Error()
		a.log.Warn("offload disabled for some Pods", "err", err)
	}
}

// podLinks reads the host's ends of the Pods' veths.
func podLinks(records []ipam.Record) (map[string]plan.PodLink, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	shaped, err := hostnet.Shaped()
	if err != nil {
		return nil, err
	}
	links := map[string]net.Interface{}
	for _, l := range all {
		links[l.Name] = l
	}
	out := map[string]plan.PodLink{}
	for _, r := range records {
		if l, ok := links[r.HostIfName]; ok && len(l.HardwareAddr) == 6 {
			out[r.HostIfName] = plan.PodLink{Index: int32(l.Index), MAC: [6]byte(l.HardwareAddr), Shaped: shaped[l.Index]}
		}
	}
	return out, nil
}
