package cni

import (
	"errors"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// del unplugs the Pod: first the interface, then the address, so that nobody gets an address that is still in use. It
// needs neither the Pod's namespace nor the agent. What an absent agent could not release it finds itself when it is
// back: a record whose interface is gone (plug.Server.Reconcile); no tombstone is needed for that.
func (c *call) del() error {
	if err := stage("delete"); err != nil {
		return err
	}
	name := api.HostIfName(c.attachment())
	if err := veth.Delete(name); err != nil {
		return kernelError(err)
	}
	if err := stage("release"); err != nil {
		return err
	}
	agent, err := dial(c.socket)
	if err != nil {
		return nil
	}
	defer agent.close()
	var r api.DelReply
	err = agent.call(api.CNIDelPath, api.DelRequest{Attachment: c.attachment()}, &r)
	if errors.Is(err, errAway) {
		return nil
	}
	return err
}

// gc has the agent remove what is not in the runtime's list.
func (c *call) gc() error {
	agent, err := dial(c.socket)
	if err != nil {
		return tryAgain(err, c.socket)
	}
	defer agent.close()
	valid := c.valid
	if valid == nil {
		valid = []api.Attachment{}
	}
	var r api.GCReply
	return tryAgain(agent.call(api.CNIGCPath, api.GCRequest{Network: c.network, Valid: valid}, &r), c.socket)
}
