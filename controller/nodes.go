package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// clearNetworkUnavailable sets the node condition NetworkUnavailable, which cloud providers create, to false once the agent
// of the node is ready. It never adds the condition.
func (k *controller) clearNetworkUnavailable(ctx context.Context, v view) error {
	var errs []error
	for _, n := range v.nodes {
		if !networkUnavailable(n) || readyAgent(v, n.Name) == nil {
			continue
		}
		now := metav1.NewTime(time.Now())
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
			Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "WarrenIsUp",
			Message: "warren's agent on this node is ready", LastTransitionTime: now, LastHeartbeatTime: now}}}})
		if err != nil {
			return err
		}
		if _, err := k.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{},
			"status"); err != nil {
			errs = append(errs, fmt.Errorf("clear condition NetworkUnavailable of node %s: %w", n.Name, err))
			continue
		}
		k.Log.Info("cleared condition NetworkUnavailable", "node", n.Name)
	}
	return errors.Join(errs...)
}

func networkUnavailable(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
