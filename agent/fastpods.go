package agent

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"sync/atomic"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/ipam"
	"github.com/warrennet/warren/servicelb/offload"
)

// fastFlows is how many flows the kernel carries at most; further ones go through the agent.
const fastFlows = 1 << 15

// fastPods keeps the load balancer's fast path at the Pods' interfaces. Only the apply loop uses it.
type fastPods struct {
	path    *offload.Program // nil: the kernel has none, or it is switched off
	why     atomic.Value     // string: why path is nil; absent while that is not known
	records []ipam.Record    // that pods was made from
	pods    map[netip.Addr]offload.Pod
	err     string // the last one that was told
}

// openFastPath loads the program. Without it everything works, and Services whose Pods are on the same node are slower.
func (a *Agent) openFastPath() {
	if !a.cfg.FastPath {
		a.fast.why.Store("switched off (fastPath)")
		return
	}
	path, err := offload.New(fastFlows, a.log)
	if err != nil {
		a.fast.why.Store(err.Error())
		a.log.Info("the kernel cannot carry flows between Pods of this node; the agent does", "setting", "fastPath", "err", err)
		return
	}
	a.fast.path = path
	a.fast.why.Store("")
}

// state is what people see of it.
func (f *fastPods) state() string {
	switch why, known := f.why.Load().(string); {
	case !known:
		return "starting"
	case why != "":
		return why
	}
	return "active"
}

func (f *fastPods) close() {
	if f.path != nil {
		_ = f.path.Close()
		f.path = nil
	}
}

// setFastPods follows the Pods of this node; look says that interfaces may have come and gone.
func (a *Agent) setFastPods(look bool) {
	f := &a.fast
	if f.path == nil {
		return
	}
	records := a.plug.Pods()
	if !look && reflect.DeepEqual(records, f.records) {
		return
	}
	links, pods, err := fastLinks(records)
	if err != nil {
		f.tell(a.log, err) // what was known stays, until the next look
		return
	}
	f.records = records
	if maps.Equal(pods, f.pods) {
		return
	}
	err = f.path.Attach(links)
	f.tell(a.log, err)
	if f.pods = pods; err != nil {
		f.pods = nil // tried again at the next look
	}
	a.lb.SetPods(pods)
}

// tell logs a failure once.
func (f *fastPods) tell(log *slog.Logger, err error) {
	if err == nil {
		f.err = ""
		return
	}
	if f.err != err.Error() {
		f.err = err.Error()
		log.Warn("flows of some Pods go through the agent", "err", err)
	}
}

// fastLinks finds the Pods' interfaces: their indexes, and each Pod's by its addresses.
func fastLinks(records []ipam.Record) (indexes []int32, pods map[netip.Addr]offload.Pod, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	shaped, err := hostnet.Shaped()
	if err != nil {
		return nil, nil, err
	}
	links := map[string]net.Interface{}
	for _, l := range all {
		links[l.Name] = l
	}
	pods = map[netip.Addr]offload.Pod{}
	for _, r := range records {
		l, ok := links[r.HostIfName]
		mac, err := veth.ParseMAC(r.MAC)
		if !ok || err != nil || len(l.HardwareAddr) != len(mac) {
			continue // being made, or being removed
		}
		if shaped[l.Index] {
			continue // what goes past the interface goes past its limit
		}
		p := offload.Pod{Link: int32(l.Index), HostMAC: offload.MAC(l.HardwareAddr), MAC: offload.MAC(mac)}
		indexes = append(indexes, p.Link)
		for _, addr := range r.Addresses {
			pods[addr] = p
		}
	}
	return indexes, pods, nil
}
