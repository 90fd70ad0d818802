// Command podsecurity says at which levels of Pod Security pods are allowed, by the checks of Kubernetes itself.
//
//	podsecurity FILE...    JSON of pod templates; a line for each file and level, with what is forbidden
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(files []string) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	for _, file := range files {
		template, err := read(file)
		if err != nil {
			return err
		}
		for _, level := range []api.Level{api.LevelBaseline, api.LevelRestricted} {
			at := api.LevelVersion{Level: level, Version: api.LatestVersion()}
			result := policy.AggregateCheckResults(evaluator.EvaluatePod(at, &template.ObjectMeta, &template.Spec))
			sort.Strings(result.ForbiddenReasons)
			name := strings.TrimSuffix(filepath.Base(file), ".json")
			fmt.Printf("%s %s: %s\n", name, level, strings.Join(result.ForbiddenReasons, ", "))
		}
	}
	return nil
}

// read decodes strictly: what the API does not know would be left out of the check.
func read(file string) (*core.PodTemplateSpec, error) {
	handle, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	decoder := json.NewDecoder(handle)
	decoder.DisallowUnknownFields()
	template := &core.PodTemplateSpec{}
	if err := decoder.Decode(template); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return template, nil
}
