package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/warrennet/warren/agent/cniserver"
	"github.com/warrennet/warren/agent/localpods"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/store/disk"
	"github.com/warrennet/warren/ipam"
)

// openCNI loads the attachments of the node's last run and prepares the server of the CNI plugin.
func (a *Agent) openCNI() error {
	boot, err := disk.BootID()
	if err != nil {
		return err
	}
	if a.pool, err = ipam.OpenPool(ipam.PoolConfig{Dir: a.cfg.StateDir, BootID: boot, Blocks: a.member.Blocks()}); err != nil {
		return err
	}
	for _, p := range a.pool.Problems() {
		a.log.Warn("recovered damaged Pod journal", "problem", p)
	}
	if a.links, err = veth.NewKernel(plan.TablePods); err != nil {
		return err
	}
	a.cni = cniserver.New(cniserver.Config{
		Pool: a.pool, Links: a.links, MTU: a.podMTU, Table: plan.TablePods, Protocol: hostnet.Protocol,
		DNS: a.names.PodConfig, Ready: a.notReady, HostPorts: a.checkHostPorts, More: a.member.Grow, Changed: a.podsChanged,
		Added: a.metrics.Attached, Log: a.log,
	})
	a.pods.Update()
	return nil
}

// podsChanged is called after a Pod was attached or detached.
func (a *Agent) podsChanged() {
	a.pods.Update()
	a.kick()
}

func (a *Agent) podMTU() int {
	if s := a.loop.State(); s != nil {
		return s.Plan.MTU
	}
	return plan.MinMTU
}

// orphanCheck is how often attachments are compared with the existing interfaces: a runtime may never call GC.
const orphanCheck = 30 * time.Second

func (a *Agent) reconcilePods(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(orphanCheck):
		}
		a.reconcileOnce()
	}
}

func (a *Agent) reconcileOnce() {
	r, err := a.cni.Reconcile()
	if err != nil {
		a.log.Warn("cannot compare attachments with the existing interfaces", "err", err)
	}
	if !r.Empty() {
		a.log.Info("reconciled attachments with the existing interfaces", "problem", r.Unknown,
			"changes", fmt.Sprintf("%d released, %d undone, %d adopted", len(r.Released), len(r.Undone), len(r.Adopted)))
	}
}

// attachments are the Pods of this node as the host has them, those included that CNI ADD has not finished.
func (a *Agent) attachments() (out []plan.Pod) {
	for _, r := range a.cni.Pods() {
		mac, _ := veth.ParseMAC(r.MAC) // zero while the interface is being made
		out = append(out, plan.Pod{Link: r.HostIfName, MAC: mac, Addrs: r.Addresses, HostPorts: localpods.HostPorts(r.PortMappings)})
	}
	return out
}
