package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// check compares the agent's record, the runtime's prevResult and the kernel's state. All differences are one error.
func (c *call) check() error {
	ips, err := c.prevAddresses()
	if err != nil {
		return err
	}
	body, err := c.callAgent(api.CNICheckPath, api.DelRequest{Attachment: c.attachment()})
	if err != nil {
		return withTryAgain(err, c.socket)
	}
	r, err := decodeAddReply(api.CNICheckPath, body)
	if err != nil {
		return err
	}
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
	return p.err(api.CodeMissing, fmt.Sprintf("interface %s of container %s differs from what ADD configured", c.ifName, c.containerID))
}

// prevAddresses returns the addresses of prevResult, which CHECK requires.
func (c *call) prevAddresses() ([]netip.Addr, error) {
	prev, err := c.previous()
	if err != nil {
		return nil, err
	}
	if !prev.present {
		return nil, &api.Error{Code: api.CodeConfig, Message: "CHECK needs prevResult in the network configuration, found none"}
	}
	var out []netip.Addr
	var p problems
	for i, raw := range prev.ips {
		var ip struct{ Address netip.Prefix }
		if err := json.Unmarshal(raw, &ip); err != nil || !ip.Address.IsValid() {
			p.addf("prevResult.ips[%d]: expected an object with an address such as 10.42.7.3/32, found %s", i, abridged(raw))
		}
		out = append(out, ip.Address.Addr())
	}
	return out, p.err(api.CodeConfig, "invalid network configuration")
}
