package cni

import (
	"errors"
	"fmt"
	"time"

	"github.com/warrennet/warren/cni/veth"
	"github.com/warrennet/warren/internal/api"
)

// retryInterval is how often ADD retries while the agent is unreachable or not ready.
const retryInterval = 50 * time.Millisecond

// add attaches the Pod. It retries for up to c.wait while the agent is unreachable, restarting or not ready. Every failed
// attempt is undone before the next one.
func (c *call) add() error {
	prev, err := c.previous()
	if err != nil {
		return err
	}
	for end := time.Now().Add(c.wait); ; time.Sleep(retryInterval) {
		err := c.addOnce(prev)
		if err == nil || !transient(err) || time.Now().After(end) {
			return withTryAgain(err, c.socket)
		}
	}
}

// transient reports whether the same request may succeed a moment later.
func transient(err error) bool {
	var e *api.Error
	return errors.Is(err, errUnreachable) || (errors.As(err, &e) && e.Code == api.CodeTryAgain)
}

// withTryAgain gives the error of an unreachable agent the code by which the runtime retries.
func withTryAgain(err error, socket string) error {
	if errors.Is(err, errUnreachable) {
		return unreachable(api.CodeTryAgain, socket, err)
	}
	return err
}

// addOnce is one attempt. The plugin opens the Pod's namespace while the agent handles the request.
func (c *call) addOnce(prev previous) error {
	agent, err := dial(c.socket)
	if err != nil {
		return err
	}
	defer agent.close()
	if err := c.stage("reserve"); err != nil {
		return err
	}
	if err := agent.send(api.CNIAddPath, c.request()); err != nil {
		return err
	}
	builder, nsErr := veth.NewBuilder(c.netns)
	if nsErr == nil {
		defer builder.Close()
	}
	body, err := agent.receive(api.CNIAddPath)
	if err != nil {
		return err
	}
	if nsErr != nil {
		return c.release(agent, netnsError(nsErr))
	}
	reserved, err := decodeAddReply(api.CNIAddPath, body)
	if err != nil {
		return c.release(agent, err)
	}
	if err := c.attach(agent, builder, prev, reserved); err != nil {
		return c.release(agent, err)
	}
	return nil
}

// attach creates and configures the interface, commits the reservation and prints the result. When it fails, the
// interface is deleted again; the caller releases the reservation.
func (c *call) attach(agent *client, builder *veth.Builder, prev previous, reserved api.AddReply) (err error) {
	spec := c.spec(reserved)
	if err := c.stage("create"); err != nil {
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
	if err := c.stage("configure"); err != nil {
		return err
	}
	if err := builder.Configure(spec, host, pod); err != nil {
		return kernelError(err)
	}
	if err := c.stage("commit"); err != nil {
		return err
	}
	if err := agent.send(api.CNICommitPath, api.CommitRequest{Attachment: c.attachment(), MAC: spec.PodMAC.String()}); err != nil {
		return err
	}
	result := c.result(prev, spec, reserved.DNS) // while the agent writes the record
	if _, err := agent.receive(api.CNICommitPath); err != nil {
		return err
	}
	if err := c.stage("print"); err != nil {
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

// release releases the reservation of a failed ADD, so that nothing is held when the runtime receives the error.
//
// An agent that has ended releases the reservation itself. Its end is then reported as the cause: an agent that shuts
// down deletes the interface while the plugin configures it.
func (c *call) release(agent *client, failed error) error {
	_, err := agent.call(api.CNIDelPath, api.DelRequest{Attachment: c.attachment()})
	if errors.Is(err, errUnreachable) {
		return fmt.Errorf("%w: %w", err, failed)
	}
	return withUndo(failed, err)
}

// wantedMAC is the MAC of the capability `mac`, else that of CNI_ARGS, else nil.
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

// netnsError has code 3 where the namespace does not exist: the runtime then has nothing to clean up.
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

// withUndo adds the error of a failed undo to the details of err.
func withUndo(err, undo error) error {
	if undo == nil {
		return err
	}
	if errors.Is(err, errUnreachable) {
		return fmt.Errorf("%w; undo: %w", err, undo)
	}
	out := *asError(err)
	if out.Details != "" {
		out.Details += "; "
	}
	out.Details += "undo: " + undo.Error()
	return &out
}
