{{- define "keyturn.name" -}}
{{- printf "%s-%s" .Release.Name "keyturn" | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "keyturn.labels" -}}
app.kubernetes.io/name: keyturn
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "keyturn.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}{{- else -}}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{- end -}}
{{- end -}}

{{- define "keyturn.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ .Values.serviceAccount.name | default (include "keyturn.name" .) }}{{- else -}}{{ .Values.serviceAccount.name | default "default" }}{{- end -}}
{{- end -}}

{{/* By component: its port, the setting of its address, the route of its liveness and readiness, and whether other
     programs call it. */}}
{{- define "keyturn.components" -}}
worker: {port: 9464, setting: KEYTURN_MONITORING_ADDRESS, live: /healthz, ready: /readyz, serves: figures, grace: 40}
executor: {port: 9465, setting: KEYTURN_MONITORING_ADDRESS, live: /healthz, ready: /readyz, serves: figures, grace: 40}
desk: {port: 8404, setting: KEYTURN_DESK_ADDRESS, live: /healthz, ready: /healthz, serves: clients, grace: 30}
jobs: {port: 8403, setting: KEYTURN_JOBS_ADDRESS, live: /healthz, ready: /healthz, serves: clients, grace: 30, command: [jobs, serve]}
codec: {port: 8402, setting: KEYTURN_CODEC_ADDRESS, live: /healthz, ready: /healthz, serves: clients, grace: 30}
leaks: {port: 8405, setting: KEYTURN_LEAKS_ADDRESS, live: /healthz, ready: /healthz, serves: clients, grace: 30}
{{- end -}}

{{/* A value as an environment has it: (dict "name" NAME "value" VALUE). YAML's numbers are floats here, and a million would
     be 1e+06; its `on` is true, which Keyturn's settings call on, and others true. */}}
{{- define "keyturn.text" -}}
{{- if and (kindIs "float64" .value) (eq (floor .value) .value) -}}{{ int64 .value }}
{{- else if and (kindIs "bool" .value) (hasPrefix "KEYTURN_" .name) -}}{{ ternary "on" "off" .value }}
{{- else -}}{{ toString .value }}{{- end -}}
{{- end -}}

{{/* The environment of one component: (dict "root" $ "component" NAME "own" SETTINGS). */}}
{{- define "keyturn.environment" -}}
env:
  {{- range $name, $value := .own }}
  {{- if ne (toString $value) "" }}
  - {name: {{ $name }}, value: {{ include "keyturn.text" (dict "name" $name "value" $value) | quote }}}
  {{- end }}
  {{- end }}
  {{- $component := .component }}
  {{- range $name, $of := .root.Values.secrets }}
  {{- if and $of (or (not $of.components) (has $component $of.components)) }}
  - name: {{ $name }}
    valueFrom: {secretKeyRef: {name: {{ $of.secret | quote }}, key: {{ $of.key | quote }}}}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* What a process of ours may do: nothing but write to /tmp, which is discarded. */}}
{{- define "keyturn.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "keyturn.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Who gets a file: (dict "root" $ "component" NAME). */}}
{{- define "keyturn.mounts" -}}
{{- $component := .component -}}
- {name: tmp, mountPath: /tmp}
{{- range $name, $of := .root.Values.secretFiles }}
{{- if or (not $of.components) (has $component $of.components) }}
- {name: {{ $name }}, mountPath: {{ $of.mountPath | quote }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "keyturn.volumes" -}}
{{- $component := .component -}}
- {name: tmp, emptyDir: {}}
{{- range $name, $of := .root.Values.secretFiles }}
{{- if or (not $of.components) (has $component $of.components) }}
- {name: {{ $name }}, secret: {secretName: {{ $of.secret | quote }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The pod of one component: (dict "root" $ "component" NAME "of" ITS-VALUES "made" ITS-LINE-ABOVE). */}}
{{- define "keyturn.pod" -}}
metadata:
  labels:
    {{- include "keyturn.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    checksum/settings: {{ toJson (list .root.Values.settings .root.Values.policy .root.Values.files) | sha256sum }}
    {{- with .of.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  # The cloud's identity is for those that call the cloud, and not for pods that strangers reach.
  serviceAccountName: {{ if has .component (list "worker" "executor") }}{{ include "keyturn.serviceAccount" .root }}{{ else }}{{ include "keyturn.name" .root }}-pages{{ end }}
  # Kubernetes' own variables for each Service would look like misspelt settings.
  enableServiceLinks: false
  automountServiceAccountToken: {{ .of.automountServiceAccountToken | default false }}
  terminationGracePeriodSeconds: {{ .made.grace }}
  {{- include "keyturn.podSecurity" .root | nindent 2 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "keyturn.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson (.made.command | default (list .component)) }}
      ports:
        - {name: http, containerPort: {{ .made.port }}}
      envFrom:
        - configMapRef: {name: {{ include "keyturn.name" .root }}-settings}
      {{- $own := merge (dict .made.setting (printf "0.0.0.0:%v" .made.port)) (.of.settings | default dict) }}
      {{- $pinned := or (eq (.of.kind | default "") "controller") (index .root.Values.settings "KEYTURN_BUILD_ID") (index $own "KEYTURN_BUILD_ID") }}
      {{- include "keyturn.environment" (dict "root" .root "component" .component "own" $own) | nindent 6 }}
        {{- if and (eq .component "worker") (not $pinned) }}
        # The image's build is not meant: pods of another build would be gone before its rotations have ended.
        - {name: KEYTURN_BUILD_ID, value: ""}
        {{- end }}
      {{- include "keyturn.containerSecurity" .root | nindent 6 }}
      # A worker imports and connects for some seconds. A process that answers nothing for a minute is started anew; one
      # that cannot reach Temporal or the database is not, which would help neither.
      startupProbe: {httpGet: {path: {{ .made.live }}, port: http}, periodSeconds: 2, failureThreshold: 30}
      livenessProbe: {httpGet: {path: {{ .made.live }}, port: http}, periodSeconds: 20, timeoutSeconds: 5, failureThreshold: 3}
      readinessProbe: {httpGet: {path: {{ .made.ready }}, port: http}, periodSeconds: 10, timeoutSeconds: 5}
      {{- with .of.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- include "keyturn.mounts" . | nindent 8 }}
        {{- range $name, $data := dict "policy" .root.Values.policy "files" .root.Values.files }}
        {{- if $data }}
        - {name: {{ $name }}, mountPath: /config/{{ $name }}, readOnly: true}
        {{- end }}
        {{- end }}
        {{- with .root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "keyturn.volumes" . | nindent 4 }}
    {{- range $name, $data := dict "policy" .root.Values.policy "files" .root.Values.files }}
    {{- if $data }}
    - {name: {{ $name }}, configMap: {name: {{ include "keyturn.name" $.root }}-{{ $name }}}}
    {{- end }}
    {{- end }}
    {{- with .root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with index $.of $name }}
  {{ $name }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* A job that runs once in a release: (dict "root" $ "component" NAME "command" [...] "weight" N "of" VALUES). */}}
{{- define "keyturn.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "keyturn.name" .root }}-{{ .component }}
  labels:
    {{- include "keyturn.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 6
  activeDeadlineSeconds: {{ .of.activeDeadlineSeconds | default 600 }}
  template:
    metadata:
      labels:
        {{- include "keyturn.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
    spec:
      restartPolicy: OnFailure
      enableServiceLinks: false
      automountServiceAccountToken: false
      {{- include "keyturn.podSecurity" .root | nindent 6 }}
      {{- with .root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "keyturn.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toJson .command }}
          # Written out: the release's ConfigMap does not exist before the first install.
          {{- include "keyturn.environment" (dict "root" .root "component" .component "own" .root.Values.settings) | nindent 10 }}
          {{- include "keyturn.containerSecurity" .root | nindent 10 }}
          {{- with .of.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          volumeMounts:
            {{- include "keyturn.mounts" . | nindent 12 }}
      volumes:
        {{- include "keyturn.volumes" . | nindent 8 }}
{{- end -}}
