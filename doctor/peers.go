package doctor

import (
	"context"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
)

// probeTimeout is the time to wait for one echo reply.
const probeTimeout = time.Second

// tunnels sends a small packet to each node that is alive. It causes a handshake, so a lost packet means a blocked UDP port.
func tunnels(ctx context.Context, n Node) (out []Finding) {
	if n.Status == nil {
		return unknown("no agent answers")
	}
	reached := 0
	for _, p := range n.Status.Peers {
		if p.External || !p.Alive {
			continue
		}
		if err := n.probe(ctx, p, 100); err != nil {
			out = append(out, problem("open UDP "+text.Join(p.Endpoints, ", ")+
				" between the nodes in both directions (cloud security groups, firewalls, NAT: set `endpoints` and `keepalive`)",
				"node %s does not answer through the tunnel (%v); last handshake %s", p.Name, err, ago(p.LastHandshake)))
			continue
		}
		reached++
	}
	if len(out) == 0 {
		return fine("%d nodes answer", reached)
	}
	return out
}

// mtus sends a packet of the tunnel's MTU to each node. If it is lost although small packets pass, the path MTU between the
// nodes is below the configured MTU.
func mtus(ctx context.Context, n Node) (out []Finding) {
	if n.Status == nil {
		return unknown("no agent answers")
	}
	for _, p := range n.Status.Peers {
		size := min(n.Status.MTU, max(p.MTU, 0))
		if p.External || !p.Alive || size == 0 || n.probe(ctx, p, 100) != nil || n.probe(ctx, p, size) == nil {
			continue
		}
		// Search the largest size that passes, to within 8 bytes.
		low, high := 100, size
		for high-low > 8 {
			if mid := (low + high) / 2; n.probe(ctx, p, mid) == nil {
				low = mid
			} else {
				high = mid
			}
		}
		out = append(out, problem("set `mtu` to at most the size that passes on all nodes, or repair the link",
			"packets of %d bytes to node %s are lost, %d pass: the path MTU between the nodes is below the configured MTU", size, p.Name,
			low))
	}
	if len(out) == 0 {
		return fine("packets of the tunnel's MTU pass to every node that answers")
	}
	return out
}

// probe sends up to two echo requests, because one may be lost.
func (n Node) probe(ctx context.Context, p api.Peer, size int) error {
	for _, v4 := range []bool{true, false} {
		from, ok := n.podNet(v4)
		to, ok2 := podNet(p.PodCIDRs, v4)
		if !ok || !ok2 {
			continue
		}
		var err error
		for range 2 {
			pctx, cancel := context.WithTimeout(ctx, probeTimeout)
			err = n.Ping(pctx, from, to, size)
			cancel()
			if err == nil {
				return nil
			}
		}
		return err
	}
	return nil // no address to probe
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}
