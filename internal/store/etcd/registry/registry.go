// Package registry is the ConfigMap by which the members of warren's etcd on Kubernetes find each other. The member that
// creates it founds the etcd cluster; later members read from it which members run, and the controller reads the endpoints
// for the agents. The membership itself is stored in etcd.
//
// The package owns that ConfigMap and nothing else. Each member writes its own key, so that they never overwrite each other.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Name is that of the ConfigMap.
const Name = "warren-etcd"

const (
	keyFounder = "founder"
	keyState   = "state"
	keyPrefix  = "member."
	running    = "running"
)

// Member is the entry of one member.
type Member struct {
	PeerURL   string `json:"peerURL"`
	ClientURL string `json:"clientURL"`
	ID        string `json:"id,omitempty"` // etcd's, hexadecimal; empty before it has one
}

// Record is the whole ConfigMap.
type Record struct {
	Token   string // distinguishes this cluster from a former one with the same members
	Founder string
	Running bool // the first member has served
	Members map[string]Member
}

// ClientURLs are those of the members that have served, except the member of that name.
func (r Record) ClientURLs(except string) (out []string) {
	for name, m := range r.Members {
		if name != except && m.ID != "" {
			out = append(out, m.ClientURL)
		}
	}
	slices.Sort(out)
	return out
}

// Parse reads the ConfigMap.
func Parse(cm *corev1.ConfigMap) (Record, error) {
	r := Record{Token: "warren-" + string(cm.UID), Founder: cm.Data[keyFounder], Running: cm.Data[keyState] == running,
		Members: map[string]Member{}}
	var errs []error
	for k, v := range cm.Data {
		name, ok := strings.CutPrefix(k, keyPrefix)
		if !ok {
			continue
		}
		var m Member
		if err := json.Unmarshal([]byte(v), &m); err != nil {
			errs = append(errs, fmt.Errorf("ConfigMap %s, key %s: %w", Name, k, err))
			continue
		}
		r.Members[name] = m
	}
	return r, errors.Join(errs...)
}

// Registry reads and writes the ConfigMap.
type Registry struct {
	Client    kubernetes.Interface
	Namespace string
}

// Read returns the record; found is false if the ConfigMap does not exist.
func (r Registry) Read(ctx context.Context) (rec Record, found bool, err error) {
	cm, err := r.Client.CoreV1().ConfigMaps(r.Namespace).Get(ctx, Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("read ConfigMap %s/%s: %w", r.Namespace, Name, err)
	}
	rec, err = Parse(cm)
	return rec, err == nil, err
}

// Found creates the ConfigMap with this member as the founder; won is false if it exists.
func (r Registry) Found(ctx context.Context, name string, m Member) (won bool, err error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return false, err
	}
	_, err = r.Client.CoreV1().ConfigMaps(r.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: r.Namespace,
			Labels: map[string]string{"app.kubernetes.io/name": "warren", "app.kubernetes.io/component": "etcd"}},
		Data: map[string]string{keyFounder: name, keyState: "founding", keyPrefix + name: string(raw)},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create ConfigMap %s/%s: %w", r.Namespace, Name, err)
	}
	return true, nil
}

// Record writes a member's own entry. With serves, it marks the cluster as running.
func (r Registry) Record(ctx context.Context, name string, m Member, serves bool) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	data := map[string]any{keyPrefix + name: string(raw)}
	if serves {
		data[keyState] = running
	}
	return r.patch(ctx, data)
}

// Forget removes a member's entry, if there is one.
func (r Registry) Forget(ctx context.Context, name string) error {
	return r.patch(ctx, map[string]any{keyPrefix + name: nil})
}

// Restart replaces the record by one with this member as the founder, after a restore.
func (r Registry) Restart(ctx context.Context, name string, m Member) error {
	rec, found, err := r.Read(ctx)
	if err != nil {
		return err
	}
	if !found {
		_, err := r.Found(ctx, name, m)
		return err
	}
	data := map[string]any{keyFounder: name, keyState: "founding"}
	for other := range rec.Members {
		data[keyPrefix+other] = nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	data[keyPrefix+name] = string(raw)
	return r.patch(ctx, data)
}

func (r Registry) patch(ctx context.Context, data map[string]any) error {
	raw, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	if _, err := r.Client.CoreV1().ConfigMaps(r.Namespace).Patch(ctx, Name, types.MergePatchType, raw, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("patch ConfigMap %s/%s: %w", r.Namespace, Name, err)
	}
	return nil
}
