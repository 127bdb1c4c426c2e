package cni

import (
	"errors"
	"fmt"
	"time"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// retryEvery is how often ADD looks for an agent that is away.
const retryEvery = 50 * time.Millisecond

// add plugs the Pod. An agent that is away, restarting or not ready yet is waited for; whatever an attempt did is
// undone before the next one.
func (c *call) add() error {
	for end := time.Now().Add(c.wait); ; time.Sleep(retryEvery) {
		err := c.addOnce()
		if err == nil || !transient(err) || time.Now().After(end) {
			return tryAgain(err, c.socket)
		}
	}
}

// transient says whether an error may be gone a moment later.
func transient(err error) bool {
	var e *api.Error
	return errors.Is(err, errAway) || (errors.As(err, &e) && e.Code == api.CodeTryAgain)
}

func tryAgain(err error, socket string) error {
	if errors.Is(err, errAway) {
		return &api.Error{Code: api.CodeTryAgain, Message: "the warren agent of this node does not answer on " + socket, Details: err.Error()}
	}
	return err
}

// addOnce is one attempt. The agent works on the request while the plugin looks for the Pod's namespace.
func (c *call) addOnce() error {
	agent, err := dial(c.socket)
	if err != nil {
		return err
	}
	defer agent.close()
	if err := stage("reserve"); err != nil {
		return err
	}
	if err := agent.send(api.CNIAddPath, writeAdd(c.request())); err != nil {
		return err
	}
	builder, missing := veth.NewBuilder(c.netns)
	if missing == nil {
		defer builder.Close()
	}
	answer, err := agent.receive(api.CNIAddPath)
	if err != nil {
		return err
	}
	if missing != nil {
		return c.giveBack(agent, netnsError(missing))
	}
	if err := c.plug(agent, builder, readAdd(answer)); err != nil {
		return c.giveBack(agent, err)
	}
	return nil
}

// plug makes the interface, commits and tells the runtime. When it fails the interface is gone again; the reservation
// is the caller's.
func (c *call) plug(agent *client, builder *veth.Builder, reserved api.AddReply) (err error) {
	spec := c.spec(reserved)
	if err := stage("create"); err != nil {
		return err
	}
	host, pod, err := builder.Create(spec)
	if err != nil {
		return kernelError(err)
	}
	defer func() {
		if err != nil {
			err = withUndo(err, builder.Delete(spec.HostIf))
		}
	}()
	if err := stage("dress"); err != nil {
		return err
	}
	if err := builder.Dress(spec, host, pod); err != nil {
		return kernelError(err)
	}
	if err := stage("commit"); err != nil {
		return err
	}
	if err := agent.send(api.CNICommitPath, writeCommit(api.CommitRequest{Attachment: c.attachment(), MAC: spec.PodMAC.String()})); err != nil {
		return err
	}
	result := c.result(spec, reserved.DNS) // while the agent writes the record
	if _, err := agent.receive(api.CNICommitPath); err != nil {
		return err
	}
	if err := stage("print"); err != nil {
		return err
	}
	return print(c.out, result)
}

func (c *call) request() api.AddRequest {
	q := api.AddRequest{Attachment: c.attachment(), Network: c.network, Netns: c.netns, PodNamespace: c.podNamespace,
		PodName: c.podName, PodUID: c.podUID, IPs: c.ips, Labels: c.labels, DNS: c.podDNS, PortMappings: c.ports}
	if len(q.IPs) == 0 {
		q.IPs = c.argIPs
	}
	if m := c.wantedMAC(); m != nil {
		q.MAC = m.String()
	}
	return q
}

// giveBack releases after a failed ADD, so that nothing is held any more when the runtime sees the error. Where the
// agent has gone away it takes the reservation back itself, and its going is the reason: a dying agent deletes the
// interface under the plugin's hands.
func (c *call) giveBack(agent *client, failed error) error {
	_, err := agent.call(api.CNIDelPath, writeDel(api.DelRequest{Attachment: c.attachment()}))
	if errors.Is(err, errAway) {
		return fmt.Errorf("%w: %w", err, failed)
	}
	return withUndo(failed, err)
}

// wantedMAC is the capability's address, else that of CNI_ARGS.
func (c *call) wantedMAC() *veth.MAC {
	if c.mac != nil {
		return c.mac
	}
	return c.argMAC
}

func (c *call) spec(r api.AddReply) veth.Spec {
	at := c.attachment()
	pod := ""
	if c.podName != "" {
		pod = c.podNamespace + "/" + c.podName
	}
	s := veth.Spec{HostIf: r.HostIfName, PodIf: c.ifName, MTU: r.MTU, Addresses: r.Addresses, Table: r.Table, Protocol: r.Protocol,
		HostMAC: api.StableMAC("host " + r.HostIfName), PodMAC: api.StableMAC("pod " + r.HostIfName), Alias: veth.Alias(at, pod)}
	if m := c.wantedMAC(); m != nil {
		s.PodMAC = *m
	}
	return s
}

// netnsError tells a runtime whether there is anything to clean up: not where the namespace does not exist.
func netnsError(err error) error {
	switch {
	case errors.Is(err, veth.ErrNoNS):
		return &api.Error{Code: api.CodeUnknown, Message: "CNI_NETNS: " + err.Error()}
	case errors.Is(err, veth.ErrSameNS):
		return &api.Error{Code: api.CodeEnvironment, Message: "CNI_NETNS: " + err.Error()}
	}
	return kernelError(err)
}

func kernelError(err error) error {
	if errors.Is(err, veth.ErrExists) {
		return &api.Error{Code: api.CodeAttached, Message: err.Error()}
	}
	return &api.Error{Code: api.CodeKernel, Message: err.Error()}
}

// withUndo adds to an error what could not be undone.
func withUndo(err, undo error) error {
	if undo == nil {
		return err
	}
	if errors.Is(err, errAway) {
		return fmt.Errorf("%w; undo: %w", err, undo)
	}
	out := *asError(err)
	if out.Details != "" {
		out.Details += "; "
	}
	out.Details += "undo: " + undo.Error()
	return &out
}
