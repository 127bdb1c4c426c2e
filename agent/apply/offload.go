package apply

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/servicelb/offload"
)

// offloadPods attaches the program to the Pods' interfaces.
type offloadPods struct {
	program *offload.Program // nil: unavailable or disabled
	log     *slog.Logger
	read    []plan.Pod                 // that links was read for
	links   map[string]plan.PodLink    // as last read
	pods    map[netip.Addr]offload.Pod // as last set
	failed  bool                       // to attach the program to all of them
	logged  string                     // the last one that was logged
}

// observe reads the Pods' interfaces when they may have changed. After a failure the last ones stay until the next look.
func (o *offloadPods) observe(pods []plan.Pod, look bool) {
	if o.program == nil {
		return
	}
	if !look && reflect.DeepEqual(pods, o.read) {
		return
	}
	links, err := podLinks(pods)
	if err != nil {
		o.report(err)
		return
	}
	o.read, o.links = pods, links
}

// set attaches the program. It reports whether the Pods that may be offloaded have changed.
func (o *offloadPods) set(desired plan.Offload, look bool) (changed bool) {
	if o.program == nil || maps.Equal(desired.Pods, o.pods) && !(o.failed && look) {
		return false
	}
	err := o.program.Attach(desired.Links)
	o.report(err)
	o.pods, o.failed = desired.Pods, err != nil // a failure is retried at the next look
	return true
}

// setOffload attaches the program, and gives the load balancer the Pods that it may offload.
func (x *applier) setOffload(desired plan.Offload, look bool) {
	if x.pods.set(desired, look) {
		x.Balancer.SetPods(desired.Pods)
	}
}

// report logs a failure once.
func (o *offloadPods) report(err error) {
	if err == nil {
		o.logged = ""
		return
	}
	if o.logged != err.Error() {
		o.logged = err.Error()
		o.log.Warn("offload disabled for some Pods", "err", err)
	}
}

// podLinks reads the host's ends of the Pods' veths.
func podLinks(pods []plan.Pod) (map[string]plan.PodLink, error) {
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
	for _, p := range pods {
		if l, ok := links[p.Link]; ok && len(l.HardwareAddr) == 6 {
			out[p.Link] = plan.PodLink{Index: int32(l.Index), MAC: [6]byte(l.HardwareAddr), Shaped: shaped[l.Index]}
		}
	}
	return out, nil
}
