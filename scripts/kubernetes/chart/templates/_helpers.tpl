{{- define "linkspan.name" -}}
{{- if contains "linkspan" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-linkspan" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end }}
{{- end }}

{{/* labels: a dict of root and component */}}
{{- define "linkspan.selector" -}}
app.kubernetes.io/name: linkspan
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "linkspan.labels" -}}
{{ include "linkspan.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "linkspan.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The engine's flags, of a dict of root and unpacks. */}}
{{- define "linkspan.engineArgs" -}}
{{- $engine := .root.Values.engine -}}
{{- if eq $engine.kind "containerd" -}}
- --engine=containerd
- --containerd-address=/run/containerd/{{ $engine.containerd.socket }}
- --namespace={{ $engine.containerd.namespace }}
- --layer-applier={{ .unpacks | ternary "auto" "containerd" }}
{{- else -}}
- --engine=object
- --object={{ $engine.object.address }}
{{- end }}
- --log-format={{ .root.Values.logFormat }}
{{- end }}

{{- define "linkspan.engineMounts" -}}
{{- if eq .Values.engine.kind "containerd" -}}
- name: containerd
  mountPath: /run/containerd
  readOnly: true
  # The root folders of the node's containers are mounted below it: what the node unmounts must not stay mounted here.
  mountPropagation: HostToContainer
{{ end }}
{{- if .Values.config -}}
- name: config
  mountPath: /etc/linkspan
  readOnly: true
{{- end }}
{{- end }}

{{- define "linkspan.engineVolumes" -}}
{{- if eq .Values.engine.kind "containerd" -}}
- name: containerd
  hostPath:
    path: {{ .Values.engine.containerd.folder }}
    type: Directory
{{ end }}
{{- if .Values.config -}}
- name: config
  configMap:
    name: {{ include "linkspan.name" . }}
{{- end }}
{{- end }}

{{- define "linkspan.engineEnvironment" -}}
{{- if and (eq .Values.engine.kind "object") .Values.engine.object.secret -}}
envFrom:
  - secretRef:
      name: {{ .Values.engine.object.secret }}
{{- end }}
{{- end }}

{{/*
The container's rights, of a dict of root and unpacks. the socket's group is enough.
*/}}
{{- define "linkspan.securityContext" -}}
{{- if .unpacks -}}
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
appArmorProfile:
  type: Unconfined
{{- else -}}
runAsUser: 65532
runAsGroup: {{ eq .root.Values.engine.kind "containerd" | ternary .root.Values.engine.containerd.group 65532 }}
runAsNonRoot: true
{{- end }}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- if .unpacks }}
  # To see containerd's files (SYS_PTRACE), and to make any file in them.
  add: [CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP, SYS_ADMIN, SYS_PTRACE]
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- if eq .root.Values.engine.kind "containerd" }}
{{- with .root.Values.engine.containerd.seLinuxType }}
seLinuxOptions:
  type: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The probes, over a socket that only this container has. The doors open when the engine has responded. Later, `ps` asks
Linkspan alone, and `images` containerd behind it, for the names that it has, of which none is this one. A bucket's names
would take many requests.
*/}}
{{- define "linkspan.probes" -}}
startupProbe:
  exec:
    command: [/linkspan, ps, --quiet, --to=unix:///run/linkspan-probe/export.sock]
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 45
livenessProbe:
  exec:
    command: [/linkspan, ps, --quiet, --to=unix:///run/linkspan-probe/export.sock]
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 4
readinessProbe:
  exec:
    {{- if eq .Values.engine.kind "containerd" }}
    command: [/linkspan, images, --quiet, --to=unix:///run/linkspan-probe/export.sock, "linkspan.invalid/probe:none"]
    {{- else }}
    command: [/linkspan, ps, --quiet, --to=unix:///run/linkspan-probe/export.sock]
    {{- end }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
{{- end }}

{{- define "linkspan.checksum" -}}
checksum/config: {{ .Values.config | sha256sum }}
{{- end }}
