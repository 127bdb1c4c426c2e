package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/kube"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// reportPools reports the faults of a pool once, and again when they change.
func (k *controller) reportPools(v view, problems []lbpool.Problem) {
	const prefix = "pool "
	wrong := map[string]bool{}
	for _, u := range v.pools {
		var texts []string
		for _, p := range problems {
			if p.Pool == u.GetName() {
				texts = append(texts, p.Text)
			}
		}
		if len(texts) == 0 {
			continue
		}
		topic, why := prefix+string(u.GetUID()), strings.Join(texts, "; ")
		wrong[topic] = true
		if k.logOnce(topic, slog.LevelWarn, "AddressPool is invalid", "object", u.GetName(), "reason", why) {
			k.events.Event(u, corev1.EventTypeWarning, "Invalid", why)
		}
	}
	k.forgetOthers(prefix, wrong)
}

// countAddresses writes the number of used and free addresses into the status of each pool. pools are those of planPools, in
// the order of v.pools.
func (k *controller) countAddresses(ctx context.Context, v view, pools []model.AddressPool, taken lbpool.Taken) error {
	var errs []error
	for i, u := range v.pools {
		var used int64
		for a := range taken {
			if pools[i].Contains(a) {
				used++
			}
		}
		free := int64(lbpool.Size(&pools[i])) - used
		if hasStatus(u, "used", used) && hasStatus(u, "free", free) {
			continue
		}
		patch, err := json.Marshal(map[string]any{"status": map[string]int64{"used": used, "free": free}})
		if err != nil {
			return err
		}
		_, err = k.Dynamic.Resource(kube.PoolResource).Patch(ctx, u.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("write the status of AddressPool %s: %w", u.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

func hasStatus(u *unstructured.Unstructured, field string, want int64) bool {
	n, found, err := unstructured.NestedInt64(u.Object, "status", field)
	return err == nil && found && n == want
}
