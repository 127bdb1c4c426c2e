package agent

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/warrennet/warren/agent/apply"
	"github.com/warrennet/warren/agent/hostio"
	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/internal/version"
	"github.com/warrennet/warren/servicelb"
	"github.com/warrennet/warren/servicelb/announce"
	"github.com/warrennet/warren/servicelb/offload"
	"github.com/warrennet/warren/tunnel"
	"golang.org/x/sync/errgroup"
)

// dataPlane waits for the first block, brings the tunnel up and runs the apply loop until ctx ends.
func (a *Agent) dataPlane(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.member.Claimed():
	}
	a.warnOverlaps()
	under, err := a.loop.Underlay(a.member.Cluster().PodCIDRs)
	if err != nil {
		return err
	}
	in := plan.Input{Self: a.self(), Host: plan.Host{Underlay: under}}
	program := a.openOffload()
	if program != nil {
		defer program.Close()
	}
	lb, err := servicelb.New(servicelb.Config{FlowFile: filepath.Join(a.cfg.RunDir, "flows"), Offload: program, Log: a.log})
	if err != nil {
		return err
	}
	defer a.closeBalancer(lb)
	src := in.PodNetAddrs()
	tun, err := tunnel.New(tunnel.Config{Hook: lb, Name: a.cfg.Interface, MTU: in.TunnelMTU(),
		DisableSegmentationOffload: !a.cfg.SegmentationOffload,
		PrivateKey:                 a.keys.Current().Private, ListenPort: a.port(),
		Log: a.log, LockFile: lockFile(&a.cfg), UAPIDir: a.cfg.UAPIDir,
		Sockets: a.sockets,
		Source4: src[model.IPv4], Source6: src[model.IPv6]})
	if err != nil {
		return err
	}
	d := apply.DataPath{Tunnel: tun, Balancer: lb, Offload: program, Pool: a.pool, Reassembled: hostio.NewReassembled(),
		Announcer: announce.New(announce.Config{Node: a.cfg.NodeName, Keys: a.heartbeatKeys(), Sockets: a.sockets, Log: a.log})}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return tun.Run(ctx) })
	g.Go(func() error { return lb.Run(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-tun.Ready():
		}
		a.path.Open(lb, tun)
		a.announcer.Store(d.Announcer)
		lb.SendBy(a.injector(tun))
		g.Go(func() error { a.names.Run(ctx); return nil })
		g.Go(func() error { return d.Announcer.Run(ctx) })
		for _, f := range in.Families() {
			g.Go(func() error { a.rawSockets(ctx, f, d.Reassembled, a.fromHost(lb, tun)); return nil })
		}
		return a.loop.Run(ctx, d)
	})
	g.Go(func() error { return hostnet.Watch(ctx, a.loop.KernelChanged) })
	g.Go(func() error { return hostnet.WatchChains(ctx, a.loop.ChainsChanged) })
	return g.Wait()
}

// rawSockets reads the raw sockets of a family until ctx ends.
func (a *Agent) rawSockets(ctx context.Context, f model.Family, reassembled *hostio.Reassembled, deliver func(pkt []byte)) {
	var all sync.WaitGroup
	all.Go(func() {
		a.sockets.Run(ctx, "ICMP of node ports, "+f.String(), func(ctx context.Context, up func()) error {
			return hostio.RunICMP(ctx, f, hostio.RawHandler{Opened: up, Deliver: deliver})
		})
	})
	all.Go(func() {
		a.sockets.Run(ctx, "fragmented datagrams to node ports, "+f.String(), func(ctx context.Context, up func()) error {
			return reassembled.Run(ctx, f, hostio.RawHandler{Opened: up, Deliver: deliver})
		})
	})
	all.Wait()
}

// closeBalancer unmaps the flow table once no handler reads it any more.
func (a *Agent) closeBalancer(lb *servicelb.Balancer) {
	a.path.Close()
	if err := lb.Close(); err != nil {
		a.log.Warn("cannot close the flow table", "err", err)
	}
}

// fromHost returns a function that translates a packet which a raw socket received for one of the node's own addresses, and sends
// it on if it belongs to a flow.
func (a *Agent) fromHost(lb *servicelb.Balancer, tun *tunnel.Tunnel) func(pkt []byte) {
	inject := a.injector(tun)
	return func(pkt []byte) {
		var p packet.Packet
		if p.Parse(pkt) == packet.OK {
			inject(p.Buf, lb.FromHost(&p))
		}
	}
}

// injector returns a function that sends a packet which the load balancer built or translated.
func (a *Agent) injector(tun *tunnel.Tunnel) func(pkt []byte, to packet.Verdict) {
	return func(pkt []byte, to packet.Verdict) {
		var err error
		switch to {
		case packet.VerdictReflect, packet.VerdictReply:
			err = tun.InjectHost(pkt)
		case packet.VerdictPeer:
			err = tun.InjectPeer(pkt)
		}
		if err != nil {
			a.log.Debug("cannot send a packet of the load balancer", "err", err)
		}
	}
}

// offloadFlows is how many flows are offloaded at most; the agent forwards further ones.
const offloadFlows = 1 << 15

// openOffload loads the eBPF program, or returns nil. Without it everything works, and Services with backends on the client's
// node are slower.
func (a *Agent) openOffload() *offload.Program {
	if !a.cfg.Offload {
		a.offload.set("disabled by the setting offload")
		return nil
	}
	program, err := offload.New(offloadFlows, a.log)
	if err != nil {
		a.offload.set(err.Error())
		a.log.Info("eBPF offload unavailable; forwarding same-node Service traffic in userspace", "err", err)
		return nil
	}
	a.offload.set("active")
	return program
}

// offloadState is how the status shows the offload: active, or the reason why it is not.
type offloadState struct{ text atomic.Pointer[string] }

func (o *offloadState) set(text string) { o.text.Store(&text) }

func (o *offloadState) get() string {
	if s := o.text.Load(); s != nil {
		return *s
	}
	return "starting"
}

// applyConfig is what the apply loop works with before the data path exists.
func (a *Agent) applyConfig() apply.Config {
	return apply.Config{Self: a.self, Source: a.source, Pods: a.pods.Attached, Attachments: a.attachments,
		Names: a.names, Host: hostnet.New(a.cfg.ProcSysNet, filepath.Join(a.cfg.StateDir, "sysctls.json"), a.log),
		NodeAddresses: a.cfg.NodeAddresses, AnnounceLinks: a.cfg.LBInterfaces, BeforeReady: a.offerPlugin, Ready: a.becameReady,
		Record:  a.member.SetRecord,
		Measure: a.metrics.Applied, Log: a.log}
}

// snapshotChanged is called for each new snapshot.
func (a *Agent) snapshotChanged() {
	a.member.Wake()
	a.keys.Wake()
	a.loop.SnapshotChanged()
}

// self is this node's identity and settings.
func (a *Agent) self() plan.Self {
	public, next := a.keys.Record()
	return plan.Self{Name: a.cfg.NodeName, Identity: a.identity, PublicKey: public, NextPublicKey: next,
		PresharedKey: a.cfg.PresharedKey, Blocks: a.member.Blocks(),
		Endpoints: a.cfg.Endpoints, Port: a.port(), MTU: a.cfg.MTU, Interface: a.cfg.Interface, Zone: a.zone(),
		Version: version.Version, Keepalive: a.cfg.Keepalive, Cluster: a.member.Cluster(), External: a.external.Peers(),
		DNS:        a.names.Addresses(),
		DNSClients: a.cfg.DNS.Allow, NodePortRanges: a.cfg.NodePortAddresses, NonMasquerade: a.cfg.NonMasquerade,
		ServiceClients: a.cfg.ServiceClients, ExternalIPs: a.cfg.ExternalIPs, Control: a.control(), NodeRanges: a.cfg.NodeRanges,
		Kubernetes: a.kube != nil, Announce: a.cfg.LBAnnounce, AnnounceLinks: len(a.cfg.LBInterfaces) > 0}
}

func (a *Agent) warnOverlaps() {
	over, others, err := hostnet.Overlaps(a.member.Cluster().PodCIDRs)
	if err != nil {
		a.log.Warn("cannot compare the Pod ranges with the host's routes", "err", err)
	}
	if len(others) > 0 {
		a.log.Info("found Pods of another CNI inside the Pod ranges; they keep their network until recreated", "cidrs", others)
	}
	for _, o := range over {
		a.log.Error("Pod range overlaps a route of the host: Pods cannot reach that network and may receive its traffic", "conflict", o)
	}
}
