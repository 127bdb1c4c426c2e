package doctor

import (
	"context"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/text"
)

// probeTimeout bounds one echo; probes are few.
const probeTimeout = time.Second

// tunnels: a small packet to each node that is alive. It makes the tunnel shake hands, so silence means a blocked port.
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
			out = append(out, problem("open UDP "+text.Join(p.Endpoints, ", ")+" between the nodes in both directions (cloud security groups, firewalls, NAT: set `endpoints` and `keepalive`)",
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

// mtus: the largest packet that the tunnel promises must come back. One that is lost although small ones pass means a
// link between the nodes that carries less than the nodes' own links say.
func mtus(ctx context.Context, n Node) (out []Finding) {
	if n.Status == nil {
		return unknown("no agent answers")
	}
	for _, p := range n.Status.Peers {
		size := min(n.Status.MTU, max(p.MTU, 0))
		if p.External || !p.Alive || size == 0 || n.probe(ctx, p, 100) != nil || n.probe(ctx, p, size) == nil {
			continue
		}
		// The largest that passes, to some bytes.
		low, high := 100, size
		for high-low > 8 {
			if mid := (low + high) / 2; n.probe(ctx, p, mid) == nil {
				low = mid
			} else {
				high = mid
			}
		}
		out = append(out, problem("set `mtu` to at most the size that passes on all nodes, or repair the link",
			"packets of %d bytes to node %s are lost on the way, %d pass: a link between the nodes carries less than its ends say", size, p.Name, low))
	}
	return out
}

// probe sends two echoes, for a single one may be lost.
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
	return nil // no address to ask
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}
