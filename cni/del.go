package cni

import (
	"errors"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// del detaches the Pod: first the interface, then the address, so that no other Pod gets an address that is in use.
//
// The agent does both: the kernel blocks the caller until the memory of the deleted interface is free (16 ms and more,
// see veth.Kernel.Delete), and the agent deletes without that wait. Without an agent the plugin deletes the interface
// itself. The agent releases the address after its next start, when it finds a record without an interface
// (cniserver.Server.Reconcile).
func (c *call) del() error {
	if err := c.stage("delete"); err != nil {
		return err
	}
	_, err := c.callAgent(api.CNIDelPath, api.DelRequest{Attachment: c.attachment()})
	if !errors.Is(err, errUnreachable) {
		return err
	}
	if err := c.stage("delete without agent"); err != nil {
		return err
	}
	if err := veth.Delete(api.HostIfName(c.attachment())); err != nil {
		return kernelError(err)
	}
	return nil
}

// callAgent sends one request on a connection of its own; nil is a GET.
func (c *call) callAgent(path string, request any) ([]byte, error) {
	agent, err := dial(c.socket)
	if err != nil {
		return nil, err
	}
	defer agent.close()
	return agent.call(path, request)
}

// gc makes the agent remove the attachments that are not in the runtime's list.
func (c *call) gc() error {
	_, err := c.callAgent(api.CNIGCPath, api.GCRequest{Network: c.network, Valid: c.valid})
	return withTryAgain(err, c.socket)
}
