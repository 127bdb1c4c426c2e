package cni

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// check compares the agent's record, the runtime's prevResult and the kernel, and reports every difference at once.
func (c *call) check() error {
	ips, err := c.prevAddresses()
	if err != nil {
		return err
	}
	answer, err := c.askAgent(api.CNICheckPath, writeDel(api.DelRequest{Attachment: c.attachment()}))
	if err != nil {
		return tryAgain(err, c.socket)
	}
	r := readAdd(answer)
	var p problems
	for _, a := range r.Addresses {
		if !slices.Contains(ips, a) {
			p.addf("address %s of the agent's record is not in prevResult", a)
		}
	}
	builder, err := veth.NewBuilder(c.netns)
	if err != nil {
		return netnsError(err)
	}
	defer builder.Close()
	missing, err := builder.Check(c.spec(r))
	if err != nil {
		return kernelError(err)
	}
	p = append(p, missing...)
	return p.err(api.CodeMissing, fmt.Sprintf("interface %s of container %s is not as ADD left it", c.ifName, c.containerID))
}

// prevAddresses reads the addresses of prevResult, which CHECK cannot do without.
func (c *call) prevAddresses() ([]netip.Addr, error) {
	if c.prev.Kind == tree.Absent {
		return nil, &api.Error{Code: api.CodeConfig, Message: "CHECK needs prevResult"}
	}
	var out []netip.Addr
	for _, ip := range c.prev.Get("ips").Items {
		p, err := netip.ParsePrefix(ip.Get("address").Text)
		if err != nil {
			return nil, &api.Error{Code: api.CodeConfig, Message: "prevResult: ips", Details: err.Error()}
		}
		out = append(out, p.Addr())
	}
	return out, nil
}
