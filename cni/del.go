package cni

import (
	"errors"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// del unplugs the Pod: first the interface, then the address, so that nobody gets an address that is still in use. The
// agent does both, because the kernel lets its caller wait for the memory of a deleted interface (16 ms and more, see
// veth.Kernel.Delete) and the agent need not. Without an agent the plugin deletes the interface itself; the address is
// released by the agent when it is back and finds the record's interface gone (plug.Server.Reconcile), so no tombstone
// is needed.
func (c *call) del() error {
	if err := stage("delete"); err != nil {
		return err
	}
	_, err := c.askAgent(api.CNIDelPath, writeDel(api.DelRequest{Attachment: c.attachment()}))
	if !errors.Is(err, errAway) {
		return err
	}
	if err := stage("delete alone"); err != nil {
		return err
	}
	if err := veth.Delete(api.HostIfName(c.attachment())); err != nil {
		return kernelError(err)
	}
	return nil
}

// askAgent is one call on a connection of its own.
func (c *call) askAgent(path string, body []byte) (tree.Value, error) {
	agent, err := dial(c.socket)
	if err != nil {
		return tree.Value{}, err
	}
	defer agent.close()
	return agent.call(path, body)
}

// gc has the agent remove what is not in the runtime's list.
func (c *call) gc() error {
	_, err := c.askAgent(api.CNIGCPath, writeGC(api.GCRequest{Network: c.network, Valid: c.valid}))
	return tryAgain(err, c.socket)
}
